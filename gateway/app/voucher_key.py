"""The site's voucher key: made once, control's alone, and what every voucher hangs on.

The file holds 64 hex digits a line. The first line is the key in force; the lines after it are
former ones, which still open the vouchers that this ledger is on record to have sold, and no
others: whoever has a key that leaked can make no new voucher with it. The key of a service point is
derived from it (`core/voucher.py`), so there is nothing else to keep.
"""

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.app.site_key import PRIVATE_MODE, credential_file, write_whole
from gateway.core.errors import ConfigurationError, RefusedError, StoreError
from gateway.core.voucher import KEY_BYTES, key_mark

VOUCHER_KEY_NAME: Final = "voucher-key"
# systemd hands it to control alone: LoadCredential=voucher-key:FILE
VOUCHER_CREDENTIAL: Final = "voucher-key"
KEYS_MAX: Final = 16
_KEY: Final = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class VoucherKeys:
    """The key in force and the former ones, 32 bytes each."""

    current: bytes
    former: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        """Never a key, wherever this is printed."""
        return f"VoucherKeys({key_mark(self.current)})"

    @property
    def mark(self) -> str:
        """What names the key in force."""
        return key_mark(self.current)

    def of_mark(self, mark: str) -> bytes | None:
        """The key, in force or former, that has this mark; None when it is not here."""
        return next((key for key in (self.current, *self.former) if key_mark(key) == mark), None)


def load_voucher_keys(control_dir: Path) -> VoucherKeys:
    """The keys of this site: systemd's credential, else the file in control's directory.

    Makes one where there is none (mode 0600), so that an older installation goes on. Raises
    ConfigurationError (no key, or others may read it) and StoreError.
    """
    path = control_dir / VOUCHER_KEY_NAME
    try:
        credential = credential_file(VOUCHER_CREDENTIAL)
        if credential is not None:
            return _keys_of(credential)
        if not path.exists():
            write_whole(path, _lines(secrets.token_bytes(KEY_BYTES)), PRIVATE_MODE)
        return read_voucher_keys(path)
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from error


def read_voucher_keys(path: Path) -> VoucherKeys:
    """The keys in a file that its owner alone may read; makes nothing.

    Raises ConfigurationError (no key, or others may read it) and StoreError.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(
                (f"{path}: others may read the voucher key: chmod 600 {path}",)
            )
        return _keys_of(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def rotate_voucher_key(control_dir: Path) -> str:
    """Put a new key in force and keep the others as former ones; the new key's mark.

    A control that runs goes on with the former key until it starts again: what it sells until
    then is on record and stays good. Raises RefusedError KEY_ELSEWHERE (no file in control's
    directory: systemd hands it over), ConfigurationError, StoreError.
    """
    path = control_dir / VOUCHER_KEY_NAME
    if not path.exists():
        raise RefusedError(
            "KEY_ELSEWHERE",
            f"there is no {path}: control makes one at its start, or systemd hands it over and it "
            "is exchanged there",
        )
    keys = read_voucher_keys(path)
    fresh = secrets.token_bytes(KEY_BYTES)
    kept = (keys.current, *keys.former)[: KEYS_MAX - 1]
    owner = path.stat()
    try:
        write_whole(path, _lines(fresh, *kept), PRIVATE_MODE)
        if os.geteuid() == 0:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from error
    return key_mark(fresh)


def _keys_of(path: Path) -> VoucherKeys:
    lines = path.read_bytes().decode("ascii", "replace").split()
    if not 1 <= len(lines) <= KEYS_MAX or not all(_KEY.fullmatch(line) for line in lines):
        raise ConfigurationError((f"{path}: not voucher keys of 64 hex digits a line",))
    keys = [bytes.fromhex(line) for line in lines]
    return VoucherKeys(keys[0], tuple(keys[1:]))


def _lines(*keys: bytes) -> bytes:
    return "".join(f"{key.hex()}\n" for key in keys).encode()
