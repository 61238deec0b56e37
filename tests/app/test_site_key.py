"""The site's signing key: made once, kept private, recognised by anybody."""

from pathlib import Path

import pytest

from gateway.app.site_key import KEY_NAME, PUBLIC_NAME, load_site_key, signature_fits
from gateway.core.errors import ConfigurationError


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """A second start finds the same key; the public half lies beside it for others."""
    first = load_site_key(tmp_path)
    again = load_site_key(tmp_path)
    assert first.public_key() == again.public_key()
    assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / PUBLIC_NAME).read_text() == first.public_key().hex() + "\n"


def test_a_signature_is_recognised_and_nothing_else_is(tmp_path: Path) -> None:
    """Another message, another signature, another or no key: all refused without an exception."""
    key = load_site_key(tmp_path)
    signature = key.sign(b"head")
    assert signature_fits(key.public_key(), b"head", signature)
    assert not signature_fits(key.public_key(), b"heaD", signature)
    assert not signature_fits(key.public_key(), b"head", bytes(64))
    assert not signature_fits(key.public_key(), b"head", b"")
    assert not signature_fits(b"short", b"head", signature)


def test_a_credential_of_systemd_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadCredential hands the key over; no second one is made in the state directory."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    given = load_site_key(tmp_path / "a")
    (tmp_path / "site-key").write_bytes((tmp_path / "a" / KEY_NAME).read_bytes())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_site_key(tmp_path / "b").public_key() == given.public_key()
    assert not (tmp_path / "b" / KEY_NAME).exists()


def test_a_key_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    """The message names the file and the remedy."""
    load_site_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_site_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o600)
    (tmp_path / KEY_NAME).write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="not a private key"):
        load_site_key(tmp_path).sign(b"x")
