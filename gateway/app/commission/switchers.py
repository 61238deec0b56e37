"""Who moves a supply during the proof: control where it enforces the point, else we ourselves."""

import asyncio
from collections.abc import Callable

from gateway.app.commission.proof import DirectSwitcher, Switcher
from gateway.app.config import Config, MeterConfig
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.north.client import LocalClient
from gateway.south.meter import MeterClient
from gateway.store.live import LiveTableReader

# Asks control for a supply to be closed (True) or open; returns when closed or given up.
Move = Callable[[LocalClient, bool], None]
NOT_ENFORCED = "NOT_ENFORCED"


class ControlSwitcher:
    """Through control and its request path; where control says that it leaves the point alone,
    directly.
    """

    def __init__(self, config: Config, move: Move, direct: DirectSwitcher) -> None:
        self._config = config
        self._move = move
        self._direct = direct
        self._is_direct = False

    @property
    def path(self) -> str:
        """How it went."""
        return self._direct.path if self._is_direct else "through control"

    async def open(self) -> None:
        """Disconnect. Raises MeterError or RefusedError."""
        try:
            await asyncio.to_thread(self._ask, closed=False)
        except RefusedError as error:
            if error.refusal_code != NOT_ENFORCED:
                raise
            self._is_direct = True
            await self._direct.open()

    async def close(self) -> None:
        """Reconnect and confirm. Raises MeterError or RefusedError."""
        if self._is_direct:
            await self._direct.close()
        else:
            await asyncio.to_thread(self._ask, closed=True)

    def _ask(self, *, closed: bool) -> None:
        try:
            with LocalClient(paths_of(self._config).socket) as north:
                self._move(north, closed)
        except StoreAwayError as error:
            raise RefusedError("CONTROL_AWAY", str(error)) from error


async def choose_switcher(
    config: Config, meter: MeterConfig, clock: Clock, move: Move, client: MeterClient
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
    return ControlSwitcher(config, move, direct)


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
            "CONTROL_AWAY", f"whether control runs cannot be seen: {live_dir}: {error.strerror}"
        ) from error
    table = LiveTableReader(live_dir)
    is_away = table.stale(clock.utc_ms())
    table.close()
    if not is_away:
        raise RefusedError(
            "CONTROL_AWAY",
            "control runs and north does not answer: only control may switch; start north",
        )
