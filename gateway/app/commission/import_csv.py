"""What a new meters file would change, and putting it in the place of the present one."""

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from gateway.app.config import Config, PointConfig
from gateway.core.errors import RefusedError
from gateway.store.db import sync_directory

BACKUP_SUFFIX: Final = ".before"


@dataclass(frozen=True, slots=True)
class Difference:
    """Meters by id: `changed` names every key with its old and new value."""

    added: tuple[str, ...]
    gone: tuple[str, ...]
    changed: Mapping[str, Sequence[tuple[str, object, object]]]
    unchanged: int


def difference(present: Config, wanted: Config) -> Difference:
    """What differs between two configurations' meters and nodes."""
    before, after = _entries(present), _entries(wanted)
    changed = {
        name: changes
        for name in after
        if name in before and (changes := _changes(before[name], after[name]))
    }
    return Difference(
        added=tuple(name for name in after if name not in before),
        gone=tuple(name for name in before if name not in after),
        changed=changed,
        unchanged=sum(name in before and name not in changed for name in after),
    )


def apply(source: Path, target: Path) -> Path:
    """Put a checked file in the place of the meters file, whole or not at all.

    The old one is kept beside it; its path is returned. Either may be the file that was kept
    before. Owner and mode stay: control has to read it. Raises RefusedError FILE_REFUSED.
    """
    target = target.resolve()  # a link stays one
    kept = target.with_name(target.name + BACKUP_SUFFIX)
    fresh, old = (target.with_name(f".{target.name}.{what}") for what in ("new", "old"))
    try:
        # Both are whole beside it before either takes its place: `source` may be `kept`.
        _copy(source, fresh, target)
        _copy(target, old, target)
        old.replace(kept)
        fresh.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise RefusedError("FILE_REFUSED", f"{error.filename}: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return kept


def _copy(source: Path, made: Path, like: Path) -> None:
    """A durable copy with the owner and mode of `like`. Raises OSError."""
    made.unlink(missing_ok=True)
    wanted = like.stat()
    # "x": whatever somebody puts there meanwhile is not written through.
    with source.open("rb") as taken, made.open("xb") as given:
        shutil.copyfileobj(taken, given)
        given.flush()
        present = os.fstat(given.fileno())
        if (present.st_uid, present.st_gid) != (wanted.st_uid, wanted.st_gid):
            os.fchown(given.fileno(), wanted.st_uid, wanted.st_gid)
        os.fchmod(given.fileno(), stat.S_IMODE(wanted.st_mode))
        os.fsync(given.fileno())


def _entries(config: Config) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = {}
    for meter in config.points:
        entries[meter.meter_id] = _flat(meter) | meter.settings.model_dump(mode="json")
    return entries


def _flat(entry: PointConfig) -> dict[str, object]:
    return {
        field.name: getattr(entry, field.name)
        for field in fields(entry)
        if field.name not in {"settings", "place"}
    }


def _changes(
    before: Mapping[str, object], after: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    keys = dict.fromkeys((*before, *after))
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]
