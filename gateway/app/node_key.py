"""The site's node key: made once, control's alone; the secrets of all nodes are derived from it.

The file holds 64 hex digits. Whoever has them can seal commands to every node of the site.
"""

import re
import secrets
from pathlib import Path
from typing import Final

from gateway.app.site_key import PRIVATE_MODE, credential_file, write_whole
from gateway.core.errors import ConfigurationError, StoreError
from gateway.core.sealing import NODE_KEY_BYTES

NODE_KEY_NAME: Final = "node.key"
# systemd hands it to control alone: LoadCredential=node-key:FILE
NODE_CREDENTIAL: Final = "node-key"
_KEY: Final = re.compile(rb"[0-9a-f]{64}")


def load_node_key(control_dir: Path) -> bytes:
    """The 32 bytes of this site's key: systemd's credential, else the file in control's directory.

    Makes one where there is none (mode 0600). Raises ConfigurationError (no key, or others may
    read it) and StoreError.
    """
    path = control_dir / NODE_KEY_NAME
    try:
        credential = credential_file(NODE_CREDENTIAL)
        if credential is not None:
            return _key_of(credential)
        if not path.exists():
            made = secrets.token_bytes(NODE_KEY_BYTES)
            write_whole(path, made.hex().encode() + b"\n", PRIVATE_MODE)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError((f"{path}: others may read the node key: chmod 600 {path}",))
        return _key_of(path)
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from error


def _key_of(path: Path) -> bytes:
    text = path.read_bytes().strip()
    if not _KEY.fullmatch(text):
        raise ConfigurationError((f"{path}: not a node key of 64 hex digits",))
    return bytes.fromhex(text.decode())
