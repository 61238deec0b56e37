"""The voucher key: made once, control's alone, exchanged without loss, brought back by hand."""

import json
import logging
from pathlib import Path

import pytest

from gateway.app.archive import read_manifest
from gateway.app.config import load_config
from gateway.app.paths import paths_of
from gateway.app.restore import RestoreOptions, restore_backup
from gateway.app.stores import create_stores
from gateway.app.voucher_key import (
    VOUCHER_KEY_NAME,
    load_voucher_keys,
    read_voucher_keys,
    rotate_voucher_key,
)
from gateway.core.errors import ConfigurationError, RefusedError
from gateway.core.requests import IssueVoucher, ReleaseRecovery
from tests.app.backup_site import backed_up, silent
from tests.app.control_site import CONFIG, PRICE_NANO, ControlSite, HandClock
from tests.app.voucher_site import RUPEE, Till, off_by_one


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    """A flat with an account and a till, in a directory of its own."""
    (tmp_path / "site").mkdir()
    site = ControlSite(tmp_path / "site")
    site.read(1_000)
    site.sweeper.judge()
    await site.open_flat(1_000 * PRICE_NANO)
    await site.sweeper.sweep()
    return Till(site)


def key_file(till: Till) -> Path:
    """Where the site's key is."""
    return paths_of(till.site.config).control_dir / VOUCHER_KEY_NAME


def test_init_makes_the_key_and_a_start_finds_it(tmp_path: Path) -> None:
    """64 hex digits, its owner's alone; an older installation gets one at its next start."""
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(tmp_path / "config.yaml")
    create_stores(config, HandClock())
    path = paths_of(config).control_dir / VOUCHER_KEY_NAME
    made = path.read_text(encoding="ascii")
    assert (path.stat().st_mode & 0o777, len(made)) == (0o600, 65)
    assert load_voucher_keys(path.parent).current.hex() == made.strip()
    path.unlink()
    assert load_voucher_keys(path.parent).current.hex() != made.strip()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    """The message names the file and the remedy, and never a key."""
    load_voucher_keys(tmp_path)
    path = tmp_path / VOUCHER_KEY_NAME
    text = path.read_text()
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_voucher_keys(tmp_path)
    path.chmod(0o600)
    for wrong in ("", "abc", text + "xyz", text * 17):
        path.write_text(wrong)
        with pytest.raises(ConfigurationError, match="not voucher keys") as refused:
            load_voucher_keys(tmp_path)
        assert text.strip() not in str(refused.value)


def test_a_credential_of_systemd_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadCredential hands the key over; no second one is made, and none is exchanged here."""
    (tmp_path / "voucher-key").write_text("ab" * 32)
    (tmp_path / "control").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_voucher_keys(tmp_path / "control").current.hex() == "ab" * 32
    assert not (tmp_path / "control" / VOUCHER_KEY_NAME).exists()
    with pytest.raises(RefusedError) as refused:
        rotate_voucher_key(tmp_path / "control")
    assert refused.value.refusal_code == "KEY_ELSEWHERE"


async def test_the_key_is_in_no_store_log_or_answer(
    till: Till, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only its file has it: not as hex, not as bytes, not in the repr of what holds it."""
    caplog.set_level(logging.DEBUG)
    token = await till.sell()
    await till.redeem(off_by_one(token))
    outcome = await till.ask(IssueVoucher("flat-1", RUPEE))
    till.site.crash()
    key = load_voucher_keys(key_file(till).parent).current
    for path in till.site.config.state_dir.rglob("*"):
        if path.is_file() and path != key_file(till):
            content = path.read_bytes()
            assert key not in content
            assert key.hex().encode() not in content
    shown = caplog.text + "".join(capsys.readouterr()) + json.dumps(dict(outcome.result))
    shown += repr(load_voucher_keys(key_file(till).parent)) + repr(till.terms())
    assert key.hex() not in shown
    assert token not in caplog.text


async def test_after_a_rotation_sold_vouchers_stay_good_and_forged_ones_do_not(
    till: Till,
) -> None:
    """A key that leaked opens what is on record to have been sold, and nothing else."""
    sold = await till.sell()
    forged = till.elsewhere(7)
    mark = till.terms().keys.mark
    assert rotate_voucher_key(key_file(till).parent) != mark
    # Control goes on with the former key until it starts again: what it sells is on record.
    between = await till.sell()
    till.site.restart()
    till.site.sweeper.judge()
    assert [await till.code(token) for token in (sold, between, forged)] == [
        "",
        "",
        "VOUCHER_WRONG",
    ]
    assert await till.code(till.elsewhere(7)) == ""
    assert read_voucher_keys(key_file(till)).of_mark(mark) is not None
    assert key_file(till).stat().st_mode & 0o777 == 0o600


def lost_keys(till: Till) -> list[object]:
    """How many vouchers each alarm about lost keys since the last start spoke of."""
    events = till.site.keeper._events
    return [event.body["vouchers"] for event in events if event.kind == "VOUCHER_KEY_LOST"]


async def test_without_its_key_a_sold_voucher_waits_and_is_no_guess(till: Till) -> None:
    """The file is lost: a new key is made, the slips are named and can be taken back."""
    sold, kept = await till.sell(), key_file(till).read_text()
    used = await till.sell()
    assert await till.code(used) == ""
    till.site.restart()
    assert lost_keys(till) == []
    key_file(till).unlink()
    till.site.restart()
    till.site.sweeper.judge()
    assert lost_keys(till) == [1]
    assert [await till.code(sold) for _ in range(6)] == ["VOUCHER_KEY"] * 6
    # Put back by hand, below the new one: what was sold is good again.
    with key_file(till).open("a", encoding="ascii") as file:
        file.write(kept)
    till.site.restart()
    till.site.sweeper.judge()
    assert lost_keys(till) == []
    assert await till.code(sold) == ""


@pytest.mark.slow
async def test_a_restore_keeps_the_key_and_a_backup_has_none(till: Till, tmp_path: Path) -> None:
    """As the site's key: secret, so not in the archive; the directory's own file is carried."""
    sold = await till.sell()
    made = backed_up(till.site, tmp_path / "off")
    assert [m.name for m in read_manifest(made.path).members if "key" in m.name] == []
    key = key_file(till).read_text()
    till.site.crash()
    done = restore_backup(
        till.site.config, till.site.clock, RestoreOptions(made.path, older=True), silent
    )
    assert key_file(till).read_text() == key
    assert key_file(till).stat().st_mode & 0o777 == 0o600
    assert [note for note in done.notes if "voucher" in note] == []
    till.site.open()
    till.site.sweeper.judge()
    assert await till.code(sold) == "VOUCHER_RECOVERY"
    await till.site.do(ReleaseRecovery("compared"))
    assert await till.code(sold) == ""


@pytest.mark.slow
async def test_on_a_new_pc_a_restore_says_that_the_key_has_to_come_too(
    till: Till, tmp_path: Path
) -> None:
    """Before control makes itself a new one: where to put the file, and what it is for."""
    await till.sell()
    made = backed_up(till.site, tmp_path / "off")
    till.site.crash()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(tmp_path / "new" / "config.yaml")
    done = restore_backup(config, till.site.clock, RestoreOptions(made.path), silent)
    (note,) = [note for note in done.notes if "voucher" in note]
    assert str(paths_of(config).control_dir / VOUCHER_KEY_NAME) in note
