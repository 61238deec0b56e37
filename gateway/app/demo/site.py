"""The files and the customers of a demo site."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.app.demo.nodes import DemoNode
from gateway.app.site_key import PRIVATE_MODE, write_whole
from gateway.core.errors import RefusedError
from gateway.core.money import Currency, format_amount
from gateway.north.client import LocalClient
from gateway.store.live import LiveRow, LiveTableReader

PRICE_GRID: Final = "8.00"
PRICE_MICRO: Final = 8_000_000
CURRENCY: Final = Currency("INR")
FIRST_S: Final = 20.0
LAST_S: Final = 120.0
CALLERS: Final = 8
READY_S: Final = 30.0
TRIES: Final = 10
TRY_AGAIN_S: Final = 1.0
PASSING: Final = frozenset({"CLOCK_UNTRUSTED", "METER_AWAY"})

CONFIG: Final = """\
# A demo site. Its limits are not those of a real one: every flat may run out at once, and the
# minimum off time is short.
site: {{id: palm-court, name: Palm Court, timezone: Asia/Kolkata, currency: INR}}
state_dir: state
runtime_dir: run
meters_file: meters.csv
north: {{http: {{listen: "127.0.0.1:{port}"}}}}
supply:
  min_off_s: 10
  mass_cut: {{max_cuts: {points}, max_percent: 100, halt_percent: 100, halt_min_points: 100000}}
"""
NODES: Final = """\
south:
  mqtt: {{host: 127.0.0.1, port: {port}, username: gateway, password_file: broker.password}}
meters:
"""
NODE: Final = "  - {{id: {meter_id}, model: pzem-node, device: {device_id}}}\n"

TARIFF: Final = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2020-01-01T00:00:00+05:30",
    "grid": {"price": PRICE_GRID},
    "generator": {"price": PRICE_GRID},
}


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where a demo keeps its things."""

    directory: Path

    @property
    def config(self) -> Path:
        """The gateway's configuration."""
        return self.directory / "config.yaml"

    @property
    def meters(self) -> Path:
        """The meters file that the simulator writes."""
        return self.directory / "meters.csv"

    @property
    def simulator_socket(self) -> Path:
        """Where the simulator takes commands."""
        return self.directory / "simulator.sock"

    @property
    def nodes(self) -> Path:
        """Where simulated nodes keep their flash."""
        return self.directory / "nodes"

    @property
    def broker_password(self) -> Path:
        """The gateway's password at the nodes' broker."""
        return self.directory / "broker.password"

    def write_config(
        self, *, meters: int, port: int, nodes: Sequence[DemoNode] = (), broker_port: int = 0
    ) -> None:
        """Write the configuration, and the broker's password where there are nodes."""
        text = CONFIG.format(port=port, points=meters + len(nodes))
        if nodes:
            text += NODES.format(port=broker_port)
            for node in nodes:
                text += NODE.format(meter_id=node.meter_id, device_id=node.device_id)
            write_whole(self.broker_password, secrets.token_hex(16).encode(), PRIVATE_MODE)
        self.config.write_text(text, encoding="utf-8")


async def wait_for(
    condition: Callable[[], bool], what: str, ended: asyncio.Event, deadline_s: float = READY_S
) -> None:
    """Wait until something is there. Raises RefusedError NOT_READY when it will not be."""
    try:
        async with asyncio.timeout(deadline_s):
            while not (condition() or ended.is_set()):  # noqa: ASYNC110 - other processes do it
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise RefusedError("NOT_READY", f"{what}: nothing for {deadline_s:.0f} s") from None
    if ended.is_set():
        raise RefusedError("NOT_READY", f"{what}: the process ended, see its message above")


def opening_balance_nano(power_w: float, lasts_s: float) -> int:
    """Credit that this power uses up in about `lasts_s`; a few Wh at least."""
    wh = max(3, round(power_w * lasts_s / 3600))
    return wh * PRICE_MICRO


async def open_accounts(
    socket: Path,
    live: LiveTableReader,
    progress: Callable[[int], None],
    lasting_s: tuple[float, float] = (FIRST_S, LAST_S),
) -> None:
    """Publish the tariff; open and commission an account at every meter that was read.

    At the power of now the first one's credit lasts `lasting_s[0]` seconds, the last one's
    `lasting_s[1]`.
    """
    rows = live.rows()
    chosen = [(meter.meter_id, row) for meter, row in zip(live.meters, rows, strict=True) if row]
    with LocalClient(socket) as north:
        await asyncio.to_thread(north.call, "POST", "/tariffs", TARIFF, "demo-tariff")
    with ThreadPoolExecutor(CALLERS) as callers:
        loop = asyncio.get_running_loop()
        parts = [chosen[number::CALLERS] for number in range(CALLERS)]
        await asyncio.gather(
            *(
                loop.run_in_executor(
                    callers, _open, socket, part, (number, len(chosen)), lasting_s, progress
                )
                for number, part in enumerate(parts)
            )
        )


def _open(
    socket: Path,
    part: Sequence[tuple[str, LiveRow]],
    place_of: tuple[int, int],
    lasting_s: tuple[float, float],
    progress: Callable[[int], None],
) -> None:
    (offset, total), (first_s, last_s) = place_of, lasting_s
    with LocalClient(socket) as north:
        for place, (meter_id, row) in enumerate(part):
            number = place * CALLERS + offset
            lasts_s = first_s + (last_s - first_s) * number / max(1, total - 1)
            balance = format_amount(opening_balance_nano(row.power_w or 500.0, lasts_s), CURRENCY)
            _open_account(north, meter_id, balance)
            north.call(
                "POST", f"/meters/{meter_id}/commissioning", None, f"demo-commission-{meter_id}"
            )
            progress(1)


def _open_account(north: LocalClient, meter_id: str, balance: str) -> None:
    """Open an account; control may not trust the clock yet, or have lost a meter's last poll."""
    body = {"id": meter_id, "tariff_id": "home", "opening_balance": balance}
    for attempt in range(TRIES):
        try:
            north.call("POST", "/accounts", body, f"demo-open-{meter_id}-{attempt}")
        except RefusedError as refused:
            if refused.refusal_code not in PASSING or attempt + 1 == TRIES:
                raise
            time.sleep(TRY_AGAIN_S)
        else:
            return


def power_of(row: LiveRow) -> float:
    """Power of a row, 0 where it is not known."""
    return row.power_w or 0.0
