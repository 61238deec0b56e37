"""New nodes go into the meters file, checked whole, and the running gateway takes it over."""

import os
import signal
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.app.commission.import_csv import apply
from gateway.app.config import Config, load_config
from gateway.app.config_csv import MAX_BYTES, added_lines
from gateway.app.config_model import METER_COLUMNS
from gateway.app.config_place import read_text
from gateway.app.doctor.stores import holder_of
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError, RefusedError, StoreAwayError
from gateway.north.client import LocalClient
from gateway.store.db import LOCK_NAME
from gateway.store.live import LiveTableReader

FORCE_S: Final = 30.0
LOOK_EVERY_S: Final = 0.2
NS_PER_S: Final = 1_000_000_000
UNITS: Final = "prepaid-gateway-control prepaid-gateway-north"


def check_writable(config: Config) -> Path:
    """The meters file. Raises RefusedError FILE_REFUSED where there is none, or not for us."""
    path = config.meters_file
    if path is None:
        raise RefusedError(
            "FILE_REFUSED",
            f"{config.path} names no meters_file: make a file meters.csv beside it whose only line "
            "is id,model and add the line meters_file: meters.csv to it",
        )
    target = path.resolve()
    # It is replaced, so its directory is written to; its owner is kept, which takes its owner.
    owned = os.geteuid() in (0, target.stat().st_uid)
    if not owned or not os.access(target.parent, os.W_OK):
        raise RefusedError(
            "FILE_REFUSED",
            f"{path} and its directory may not be written by you: run this as root (sudo), or let "
            "its owner run it",
        )
    return path


def add_meters(config: Config, rows: Sequence[Mapping[str, str]]) -> Path:
    """Put rows (cells by column) behind those of the meters file, whole or not at all.

    What stands there stays byte for byte, owner and mode too; the file of before is kept beside it
    and its path returned. Raises RefusedError FILE_REFUSED, ConfigurationError (the whole
    configuration would be wrong with them; nothing was written).
    """
    path = check_writable(config)
    text = read_text(path, str(path), MAX_BYTES)
    before = path.read_bytes()
    added = added_lines(text, rows, METER_COLUMNS, str(path)).encode()
    with tempfile.TemporaryDirectory(prefix="prepaid-meters-") as folder:
        fresh = Path(folder) / path.name
        fresh.write_bytes(before + added)
        try:
            load_config(config.path, meters_file=fresh)
        except ConfigurationError as error:
            told = (problem.replace(str(fresh), str(path)) for problem in error.problems)
            raise ConfigurationError(tuple(told)) from None
        if path.read_bytes() != before:
            raise RefusedError("FILE_REFUSED", f"{path} was changed meanwhile: run this again")
        return apply(fresh, path)


def reload_gateway(
    config: Config,
    north: LocalClient,
    meters: Collection[str],
    clock: Clock,
    sleep: Callable[[float], None],
) -> None:
    """Let control and north read the configuration again; wait until both have these meters.

    Raises RefusedError NOT_READY (not running, not ours to signal, or the file was not taken).
    """
    paths = paths_of(config)
    for name, directory in (("control", paths.control_dir), ("north", paths.north_dir)):
        process = holder_of(directory / LOCK_NAME)
        if not process:
            raise RefusedError("NOT_READY", f"{name} is not running: start it, then run this again")
        try:
            os.kill(process, signal.SIGHUP)
        except (PermissionError, ProcessLookupError) as error:
            raise RefusedError(
                "NOT_READY",
                f"{name} could not be told to read its configuration ({error.strerror}): "
                f"systemctl reload {UNITS}, then run this again",
            ) from error
    live = LiveTableReader(paths.live_dir)
    until_ns = clock.mono_ns() + round(FORCE_S * NS_PER_S)
    while True:
        live.refresh()
        of_control = {meter.meter_id for meter in live.meters}
        of_north: set[str] = set()
        with suppress(StoreAwayError):
            of_north = {str(item["id"]) for item in north.pages("/meters")}
        lacking = set(meters) - (of_control & of_north)
        if not lacking:
            return
        if clock.mono_ns() > until_ns:
            raise RefusedError(
                "NOT_READY",
                f"the new meters are in {config.meters_file}, and after {FORCE_S:.0f} s the "
                f"gateway has not taken {min(lacking)}: look for CONFIG_REFUSED in its log, then "
                "run this again",
            )
        sleep(LOOK_EVERY_S)
