"""The site at a glance when no north answers: what the files tell, read only."""

from gateway.app.config import Config
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.figures import Value
from gateway.north.context import UNCERTAIN_S, ControlState
from gateway.north.http.operations import Glance, Status, status_of
from gateway.store.board import read_board
from gateway.store.db import reading
from gateway.store.ledger import LEDGER
from gateway.store.live import LiveRow, LiveTableReader
from gateway.store.overview import LedgerOverview, read_overview, requests_after
from gateway.store.requests import NORTH


def status_of_files(config: Config, clock: Clock) -> Status:
    """What can be told without north; what no file tells stays None."""
    paths = paths_of(config)
    now_utc_ms = clock.utc_ms()
    overview: LedgerOverview | None = None
    waiting: int | None = None
    figures: dict[str, Value] = {}
    try:
        with reading(paths.ledger, LEDGER) as connection:
            overview = read_overview(connection)
        cursor = overview.cursor
        with reading(paths.north_dir / "north.db", NORTH) as connection:
            waiting = requests_after(connection, cursor)
    except StoreError:
        # Said by what is missing; `doctor` tells why.
        pass
    away, faults = _shown(config, now_utc_ms)
    control = ControlState.AWAY
    try:
        board = read_board(paths.live_dir)
    except StoreError:
        pass
    else:
        if not board.stale(now_utc_ms):
            control, figures = ControlState.PRESENT, dict(board.figures)
    return status_of(
        Glance(
            site=config.site.id,
            utc_ms=now_utc_ms,
            control=control,
            north_since_utc_ms=None,
            figures=figures,
            overview=overview,
            meters_away=away,
            faults=faults,
            requests_waiting=waiting,
        )
    )


def _shown(config: Config, now_utc_ms: int) -> tuple[list[str], list[str]]:
    """Meters without a usable reading, and alarms that stand, as the live table has them."""
    rows: dict[str, LiveRow] = {}
    live = LiveTableReader(paths_of(config).live_dir)
    try:
        live.refresh()
        listed = zip(live.meters, live.rows(), strict=True)
        rows = {meter.meter_id: row for meter, row in listed if row is not None}
    except StoreError:
        # Control has not run since the machine started: nobody has a reading.
        pass
    finally:
        live.close()
    oldest_utc_ms = now_utc_ms - round(UNCERTAIN_S * 1000)
    away = [
        meter.meter_id
        for meter in config.points
        if meter.meter_id not in rows or rows[meter.meter_id].utc_ms < oldest_utc_ms
    ]
    faults = [
        f"{meter.service_point_id}: {row.fault.value}"
        for meter in config.points
        if (row := rows.get(meter.meter_id)) is not None and row.fault is not None
    ]
    return away, faults
