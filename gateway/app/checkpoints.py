"""Whose signatures on checkpoints count at this site, as its files say."""

from pathlib import Path
from typing import Final

from gateway.app.site_key import PUBLIC_NAME, signature_fits
from gateway.core.errors import ConfigurationError
from gateway.store.checkpoints import KeyTrust

# Keys that the site had before (a PC that was replaced): hex, one per line, `#` begins a remark.
FORMER_NAME: Final = "former-keys"
_KEY_BYTES: Final = 32


def key_trust(control_dir: Path, site_key: bytes) -> KeyTrust:
    """The site's key and those before it. Raises ConfigurationError for a line that is no key."""
    former = control_dir / FORMER_NAME
    known = _keys(former) if former.exists() else ()
    return KeyTrust(site_key, signature_fits, frozenset(known))


def published_trust(control_dir: Path) -> KeyTrust | None:
    """The same for who may not read the private key; None where no key was published yet."""
    published = control_dir / PUBLIC_NAME
    if not published.exists():
        return None
    keys = _keys(published)
    if len(keys) != 1:
        raise ConfigurationError((f"{published}: expected one public key",))
    return key_trust(control_dir, keys[0])


def _keys(path: Path) -> tuple[bytes, ...]:
    keys: list[bytes] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        word = text.partition("#")[0].strip()
        if not word:
            continue
        try:
            key = bytes.fromhex(word)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise ConfigurationError((f"{path}:{number}: not a public key: 64 hex digits",))
        keys.append(key)
    return tuple(keys)
