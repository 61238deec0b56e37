"""The file of a backup: a gzipped tar of whole copies, told by a manifest that comes first.

manifest.json   what is in it: site, heads, schemas, size and SHA-256 of every member
ledger.db       as of one instant
north.db        a little later: what was executed in between is executed again by its key
telemetry/…     readings, where they were asked for
config/…        the configuration file and its CSV, for people
"""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from gateway.app.regular import open_regular
from gateway.core.errors import RefusedError, StoreError
from gateway.store.db import sync_directory

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
LEDGER_MEMBER: Final = "ledger.db"
NORTH_MEMBER: Final = "north.db"
MANIFEST_BYTES_MAX: Final = 4_000_000
ARCHIVE_MODE: Final = 0o600
_BLOCK: Final = 1 << 20
_NAME: Final = re.compile(r"(ledger\.db|north\.db|(telemetry|config)/[A-Za-z0-9][\w.-]{0,100})")

_KEY: Final = re.compile(r"[0-9a-f]{64}")

Bytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a backup."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. Times are UTC milliseconds, hashes and keys hexadecimal.

    `site_keys` are the public keys that signed its checkpoints, the latest first.
    """

    site: str
    epoch: str
    created_utc_ms: int
    program: str
    ledger_seq: int
    ledger_hash: str
    ledger_utc_ms: int
    ledger_schema: int
    north_schema: int
    site_keys: tuple[str, ...]
    members: tuple[Member, ...]

    @property
    def total_bytes(self) -> int:
        """What its members take when unpacked."""
        return sum(member.size_bytes for member in self.members)


def member_of(name: str, path: Path, count: Bytes) -> Member:
    """A file as a member, hashed. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
            count(len(block))
    return Member(name, size, digest.hexdigest())


def write_archive(
    target: Path, manifest: Manifest, files: Mapping[str, Path], count: Bytes
) -> None:
    """Write a backup to `target` (which must not exist): mode 0600, on the disk when it returns.

    `files` has a path for every member; `count` is told of the bytes read. Raises OSError.
    """
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, ARCHIVE_MODE)
    with os.fdopen(descriptor, "wb") as raw:
        with (
            gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            tar.addfile(_entry(MANIFEST, len(text)), io.BytesIO(text))
            for member in manifest.members:
                with files[member.name].open("rb") as file:
                    entry = _entry(member.name, member.size_bytes)
                    tar.addfile(entry, _Counted(file, count))  # type: ignore[arg-type]
        raw.flush()
        os.fsync(raw.fileno())
    sync_directory(target.parent)


def read_manifest(archive: Path) -> Manifest:
    """What a backup says of itself. Raises RefusedError BACKUP_DAMAGED, StoreError."""
    with _opened(archive) as tar:
        return _first(tar, archive)


def unpack(archive: Path, places: Callable[[Member], Path | None], count: Bytes) -> Manifest:
    """Unpack the members for which `places` names a path, and check every one by its SHA-256.

    What is written is on the disk when this returns. Raises RefusedError BACKUP_DAMAGED,
    StoreError (the archive or a target cannot be read or written).
    """
    with _opened(archive) as tar:
        manifest = _first(tar, archive)
        awaited = list(manifest.members)
        while (entry := tar.next()) is not None:
            member = awaited.pop(0) if awaited else None
            if member is None or entry.name != member.name or not entry.isreg():
                raise _damaged(archive, f"{entry.name} is not what the manifest names next")
            source = tar.extractfile(entry)
            if source is None or entry.size != member.size_bytes:
                raise _damaged(archive, f"{entry.name} has another size than its manifest says")
            if _take(source, places(member), count) != member.sha256:
                raise _damaged(archive, f"{entry.name} differs from its SHA-256")
        if awaited:
            raise _damaged(archive, f"{awaited[0].name} is missing")
    return manifest


def _take(source: IO[bytes], target: Path | None, count: Bytes) -> str:
    """Read a member to its end, into `target` where one is given; its SHA-256."""
    if target is None:
        return _hashed(source, lambda _: None, count)
    target.parent.mkdir(mode=0o750, exist_ok=True)
    with target.open("xb") as out:
        digest = _hashed(source, out.write, count)
        out.flush()
        os.fsync(out.fileno())
    return digest


def _hashed(source: IO[bytes], write: Callable[[bytes], object], count: Bytes) -> str:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        write(block)
        count(len(block))
    return digest.hexdigest()


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive as a stream; whatever is wrong with its bytes is BACKUP_DAMAGED."""
    try:
        with open_regular(archive) as raw, tarfile.open(fileobj=raw, mode="r|gz") as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(archive, f"not a whole gzipped tar ({error})") from error
    except OSError as error:
        raise StoreError(f"{error.filename or archive}: {error.strerror or error}") from error


def _first(tar: tarfile.TarFile, archive: Path) -> Manifest:
    entry = tar.next()
    source = tar.extractfile(entry) if entry is not None and entry.isreg() else None
    if entry is None or source is None or entry.name != MANIFEST:
        raise _damaged(archive, "it does not begin with a manifest")
    if entry.size > MANIFEST_BYTES_MAX:
        raise _damaged(archive, "its manifest is too large")
    try:
        return _manifest(json.loads(source.read()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(archive, f"its manifest cannot be read ({error})") from error


def _manifest(given: Mapping[str, Any]) -> Manifest:
    found = dict(given)
    if found.pop("format") != FORMAT:
        raise RefusedError(
            "BACKUP_NEWER", "a newer program wrote this backup: install the version that did"
        )
    members = tuple(
        Member(str(one["name"]), int(one["size_bytes"]), str(one["sha256"]))
        for one in found.pop("members")
    )
    names = [member.name for member in members]
    if not all(_NAME.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise ValueError("a member has a name that no backup has")
    if names[:2] != [LEDGER_MEMBER, NORTH_MEMBER]:
        raise ValueError("ledger.db or north.db is missing")
    keys = tuple(str(key) for key in found.pop("site_keys"))
    if not all(_KEY.fullmatch(key) for key in keys):
        raise ValueError("a site key is no public key")
    kinds: dict[str, type] = {
        name: int if name.endswith(("_utc_ms", "_seq", "_schema")) else str
        for name in Manifest.__dataclass_fields__
        if name not in ("members", "site_keys")
    }
    if found.keys() != kinds.keys() or not all(
        isinstance(found[name], kind) for name, kind in kinds.items()
    ):
        raise ValueError("its keys are not those of a manifest")
    return Manifest(members=members, site_keys=keys, **found)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o640
    return entry


def _damaged(archive: Path, why: str) -> RefusedError:
    return RefusedError(
        "BACKUP_DAMAGED", f"{archive}: {why}; take another backup, nothing was changed"
    )


class _Counted:
    """A file that tells how much was read of it."""

    def __init__(self, file: IO[bytes], count: Bytes) -> None:
        self._file = file
        self._count = count

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._count(len(block))
        return block
