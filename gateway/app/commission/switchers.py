"""Who moves a supply during the proof: control where it enforces the point, else we ourselves."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, cast

from ulid import ULID

from gateway.app.commission.proof import (
    CONTROL_AWAY,
    SUPPLY_BLOCKED,
    DirectSwitcher,
    Switcher,
)
from gateway.app.config import Config, MeterConfig
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.switching import ControlState
from gateway.north.client import LocalClient
from gateway.south.meter import MeterClient
from gateway.store.commands import CommandState
from gateway.store.live import LiveTableReader

NOT_ENFORCED: Final = "NOT_ENFORCED"
REASON: Final = "commissioning: switch proof"
# Beyond the minimum off time: a turn on the feeder, three attempts, the proof.
FOLLOW_S: Final = 90.0
# A taken request is carried out, and shown by the live table, within this.
SETTLE_S: Final = 3.0
NS: Final = 1_000_000_000
LOOK_EVERY_S: Final = 0.2


class ControlSwitcher:
    """Through control and its request path; where control says that it leaves the point alone,
    directly.
    """

    def __init__(
        self, config: Config, meter: MeterConfig, direct: DirectSwitcher, clock: Clock
    ) -> None:
        self._config = config
        self._clock = clock
        self._path = f"/meters/{meter.meter_id}"
        self._direct = direct
        self._is_direct = False
        # What somebody else switches off meanwhile is not taken back with ours.
        self._owner = f"proof {ULID()}"
        self._opening: asyncio.Future[None] | None = None
        self._asked_ns: int | None = None

    @property
    def path(self) -> str:
        """How it went."""
        return self._direct.path if self._is_direct else "through control"

    @property
    def is_direct(self) -> bool:
        """Once control said that it leaves the point alone."""
        return self._is_direct

    @property
    def is_beside_control(self) -> bool:
        """Always."""
        return True

    async def open(self) -> None:
        """Disconnect. Raises MeterError or RefusedError: SUPPLY_BLOCKED where a reason stands."""
        self._opening = asyncio.ensure_future(asyncio.to_thread(self._disconnect))
        try:
            # A wait that is given up does not take the request back: `close` comes after it.
            await asyncio.shield(self._opening)
        except RefusedError as error:
            if error.refusal_code != NOT_ENFORCED:
                raise
            self._is_direct = True
            await self._direct.open()

    async def close(self) -> None:
        """Reconnect and confirm. Raises MeterError or RefusedError."""
        if self._opening is not None:
            with suppress(RefusedError):
                await self._opening
        if self._asked_ns is not None:
            # Closed as it is shown now may be closed still.
            left_s = SETTLE_S - (self._clock.mono_ns() - self._asked_ns) / NS
            await asyncio.sleep(max(left_s, 0.0))
        if not self._is_direct:
            try:
                await asyncio.to_thread(self._reconnect)
            except RefusedError as error:
                if error.refusal_code != NOT_ENFORCED:
                    raise
                self._is_direct = True  # its account was closed meanwhile
        if self._is_direct:
            await self._direct.close()

    def _disconnect(self) -> None:
        try:
            with LocalClient(paths_of(self._config).socket) as north:
                # With a reason standing there is nothing to prove.
                reasons = _supply(north, self._path).get("block_reasons")
                if reasons:
                    names = ", ".join(cast("list[str]", reasons))
                    raise RefusedError(SUPPLY_BLOCKED, f"supply is blocked already: {names}")
                try:
                    self._ask(north, "disconnect")
                finally:
                    self._asked_ns = self._clock.mono_ns()
        except StoreAwayError as error:
            raise RefusedError(CONTROL_AWAY, str(error)) from error

    def _reconnect(self) -> None:
        """Take our reason back and see the supply closed, however often it takes to ask."""
        try:
            with LocalClient(paths_of(self._config).socket) as north:
                try:
                    command = self._ask(north, "reconnect")
                except RefusedError as error:
                    if error.refusal_code != "NOT_DISCONNECTED":
                        raise
                    command = {}  # taken back before: by a request whose answer was lost
                self._follow(north, command)
        except StoreAwayError as error:
            raise RefusedError(CONTROL_AWAY, str(error)) from error

    def _follow(self, north: LocalClient, command: Mapping[str, object]) -> None:
        """Wait until the supply is closed, and confirm where that is all that is missing."""
        begun_ns = self._clock.mono_ns()
        until_ns = begun_ns + int((self._config.supply.min_off_s + FOLLOW_S) * NS)
        while self._clock.mono_ns() < until_ns:
            state = CommandState(str(command["state"])) if command else None
            if state in (CommandState.FAILED, CommandState.EXPIRED):
                return  # the meter shows it, and it is asked for again
            supply = _supply(north, self._path)
            reasons = set(cast("list[str]", supply.get("block_reasons", [])))
            # Ours is gone by then: another's manual reason stands.
            late = self._clock.mono_ns() - begun_ns > SETTLE_S * NS
            if reasons - (set() if late else {"MANUAL"}):
                raise RefusedError(SUPPLY_BLOCKED, f"blocked by {', '.join(sorted(reasons))}")
            shown = supply.get("control_state")
            if state in (None, CommandState.VERIFIED) and shown == ControlState.CONNECTED:
                return
            if shown == ControlState.READY_FOR_RECONNECTION:
                with suppress(RefusedError):  # somebody else was quicker
                    command = self._ask(north, "confirm_reconnect")
            time.sleep(LOOK_EVERY_S)
            if command:
                command = north.call("GET", f"/commands/{command['id']}")

    def _ask(self, north: LocalClient, action: str) -> dict[str, object]:
        body = {"action": action, "reason": REASON, "owner": self._owner}
        return north.call("POST", f"{self._path}/commands", body, str(ULID()))


def _supply(north: LocalClient, path: str) -> Mapping[str, object]:
    return cast("Mapping[str, object]", north.call("GET", path).get("supply") or {})


async def choose_switcher(
    config: Config, meter: MeterConfig, clock: Clock, client: MeterClient
) -> Switcher:
    """How a meter's supply may be moved now.

    Control leaves a point alone until it is commissioned; from then on only control switches it.
    Raises RefusedError CONTROL_AWAY where control may run and cannot be asked.
    """
    direct = DirectSwitcher(client)
    try:
        view = await asyncio.to_thread(_view, config, meter)
    except StoreAwayError:
        _require_stopped(config, clock)
        return direct
    if view["commissioned"] is False:
        return direct
    return ControlSwitcher(config, meter, direct, clock)


def _view(config: Config, meter: MeterConfig) -> dict[str, object]:
    with LocalClient(paths_of(config).socket) as north:
        return north.call("GET", f"/meters/{meter.meter_id}")


def _require_stopped(config: Config, clock: Clock) -> None:
    """Raise RefusedError CONTROL_AWAY unless control surely does not run."""
    live_dir = paths_of(config).live_dir
    try:
        live_dir.stat()
        list(live_dir.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise RefusedError(
            CONTROL_AWAY, f"whether control runs cannot be seen: {live_dir}: {error.strerror}"
        ) from error
    table = LiveTableReader(live_dir)
    is_away = table.stale(clock.utc_ms())
    table.close()
    if not is_away:
        raise RefusedError(
            CONTROL_AWAY,
            "control runs and north does not answer: only control may switch; start north",
        )
