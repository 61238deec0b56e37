"""Reading the configuration again: what changed, and what of it may change while running.

The file is checked first, whole. A wrong one, or one that asks for what only a restart can do,
changes nothing at all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.app.config import Config, load_config
from gateway.app.config_print import as_document
from gateway.core.errors import ConfigurationError, GatewayError
from gateway.store.db import Connection
from gateway.store.registry import account_at

log = structlog.get_logger()

# More lines than this do not help a person; the count tells the rest.
SHOWN_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Change:
    """One key with its value before and after; a meter that came or went is one change."""

    path: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} → {_shown(self.after)}"


@dataclass(frozen=True, slots=True)
class Concern:
    """Which keys a process uses: those that it ignores, and those fixed as long as it runs."""

    ignored: tuple[str, ...]
    fixed: tuple[str, ...]
    restart: str


FIXED: Final = ("site", "state_dir", "runtime_dir")
# Secrets are file references in the document: a changed file behind one is no change here.
CONTROL: Final = Concern(
    ignored=("create", "north", "backup", "south.broker"),
    # The floor belongs to the watch over the disk, which lives as long as the ledger is open.
    fixed=(*FIXED, "telemetry.min_free_bytes"),
    restart="systemctl restart prepaid-gateway-control",
)
NORTH: Final = Concern(
    ignored=(
        "create",
        "south",
        "supply",
        "feeders",
        "posting",
        "telemetry",
        "backup",
        "watch",
    ),
    fixed=(*FIXED, "north"),
    restart="systemctl restart prepaid-gateway-north",
)

ABSENT: Final = "absent"
PRESENT: Final = "present"


def read_again(running: Config, concern: Concern) -> tuple[Config, tuple[Change, ...]]:
    """The file as it is now, and what differs for this process from what runs.

    Raises ConfigurationError: the file is wrong, or a key that is fixed has another value.
    """
    fresh = load_config(running.path)
    found = tuple(
        change for change in changes(running, fresh) if not _below(change.path, concern.ignored)
    )
    fixed = [change for change in found if _below(change.path, concern.fixed)]
    if fixed:
        raise ConfigurationError(
            tuple(
                f"{running.path}: {change}: not while it runs; {concern.restart}"
                for change in fixed
            )
        )
    return fresh, found


def changes(before: Config, after: Config) -> Iterator[Change]:
    """Every difference between two configurations, defaults resolved; order is none."""
    old, new = as_document(before), as_document(after)
    old_meters, new_meters = _by_id(old.pop("meters")), _by_id(new.pop("meters"))
    yield from _differences(old, new, "")
    for name in (*old_meters, *(name for name in new_meters if name not in old_meters)):
        path = f"meters.{name}"
        if name not in new_meters:
            yield Change(path, PRESENT, ABSENT)
        elif name not in old_meters:
            yield Change(path, ABSENT, PRESENT)
        else:
            yield from _differences(old_meters[name], new_meters[name], path)


def check_removed(connection: Connection, running: Config, fresh: Config) -> None:
    """Refuse a file without a meter at which somebody has an open account (ConfigurationError)."""
    kept = {meter.meter_id for meter in fresh.points}
    problems: list[str] = []
    for meter in running.points:
        if meter.meter_id in kept:
            continue
        account = account_at(connection, meter.service_point_id)
        if account is not None:
            problems.append(
                f"{running.path}: meters: {meter.meter_id} is gone, but account "
                f"{account.account_id} is open there; bring the meter back, or close the account "
                "first"
            )
    if problems:
        raise ConfigurationError(tuple(problems))


def tell_changes(found: Sequence[Change]) -> None:
    """Say what a reload changes, one line each up to a bound."""
    for change in found[:SHOWN_MAX]:
        log.info("config.change", key=change.path, before=change.before, after=change.after)
    log.info("config.applied", changes=len(found))


def tell_refusal(error: GatewayError) -> None:
    """Say every problem of a file that was refused; the running configuration stays."""
    problems = error.problems if isinstance(error, ConfigurationError) else (str(error),)
    for problem in problems:
        log.error("config.problem", problem=problem)
    log.error("config.refused", problems=len(problems))


def _by_id(meters: object) -> dict[str, Mapping[str, object]]:
    if not isinstance(meters, list):
        raise TypeError("meters is no list")
    return {str(meter["id"]): meter for meter in meters}


def _differences(old: object, new: object, path: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in (*old, *(key for key in new if key not in old)):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key), new.get(key), below)
    elif old != new:
        yield Change(path, old, new)


def _below(path: str, tops: Sequence[str]) -> bool:
    return any(path == top or path.startswith(f"{top}.") for top in tops)


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else repr(value)
