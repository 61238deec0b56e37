"""The application: one node, its tasks, from power-up to the next restart.

`main` and `safe` are what loader.py calls on the device; `run` is the same on every board.
"""

import asyncio
import binascii

from node import settings as settings_module
from node import update
from node.backlog import Backlog
from node.clock import Clock
from node.commands import SETTINGS_PATH, Commands
from node.journal import Journal
from node.link import Link
from node.metering import Meter
from node.panel import Panel
from node.port import const
from node.relay import Relay
from node.sealed import Seal
from node.spool import Spool
from node.supervisor import Supervisor
from node.telemetry import Events, Reporter
from node.updating import Updating
from node.wifi import kept

_STEP_S = 0.5
_SETTLED_S = const(1)  # a module shows its new power so long after a move of the relay
_STOP_S = 0.01
_GOODBYE_S = const(5)
_CLOCK_S = const(10)


class Node:
    """Everything of one node for one boot."""

    def __init__(self, board, slot):
        self.board = board
        self.slot = slot
        self.wake = asyncio.Event()  # something waits to be sent
        self.relay = Relay(board)
        self.clock = Clock(board)
        self.events = Events()
        self.supervisor = Supervisor(self.clock, self.events, board.watchdog_feed)
        self.secret = board.nvs_get("secret")
        self.device_id = name_of(board)
        self.hardware = (board.nvs_get("hardware") or b"").decode()
        self.boot_id = self._count_boot()
        # Before the radio is on an ESP32's random numbers may come again; the count does not.
        session = self.boot_id.to_bytes(4, "big") + board.random(4)
        self.session = binascii.hexlify(session).decode()
        self._make_data()
        self.settings, left_out = settings_module.read(self._read_settings())
        self.trial = update.Trial(board, slot)
        self.version = self.trial.version
        self.meter = Meter(board, self.settings, self.clock, self.relay, self.events)
        self.spool = self._open_spool()
        self.reporter = Reporter()
        self.commands = Commands(self)
        self.seal = Seal(self.secret or board.random(32), self.device_id, self.session)
        self.updating = Updating(self)
        self.backlog = Backlog(self)
        self.panel = Panel(self)
        self.meter.is_alone = self._is_alone
        self.link = Link(self)
        self._poll_wanted = asyncio.Event()
        self._asked = False
        self.events.node = self
        self.events.keep_in(Journal(board, "/data/events"))
        self.events.add("boot", reset=board.reset_cause(), slot=slot, firmware=self.version)
        if left_out:
            self.events.add("settings_left_out", keys=left_out[:8])
        if not self.spool:
            self.events.add("storage_failed")
        self.updating.tell_failure()

    def ask_reading(self):
        """Read the module at once and send telemetry then."""
        self._asked = True
        self._poll_wanted.set()

    async def live(self):
        """Work until a restart is wanted."""
        works = [self._measure, self.link.run, self.backlog.run, self.panel.run, self._keep_time]
        works.append(self.updating.run)
        if self.secret and not kept(self.board, "wifi").get("ssid"):
            works.append(self._set_up)
        tasks = [asyncio.create_task(self.supervisor.keep(work)) for work in works]
        try:
            while not self.supervisor.restart_reason:
                self.supervisor.step()
                self._check_trial()
                await asyncio.sleep(_STEP_S)
            self.supervisor.step()
            try:
                await asyncio.wait_for(self.link.goodbye(), _GOODBYE_S)
            except asyncio.TimeoutError:
                pass
        finally:
            # A cancellation that meets the end of a `wait_for` is lost on CPython 3.11.
            for task in tasks:
                while not task.done():
                    task.cancel()
                    await asyncio.sleep(_STOP_S)

    async def _measure(self):
        """Poll the modules for ever."""
        while True:
            self.supervisor.beat("meter", 30 + self.settings["poll_s"])
            asked, self._asked = self._asked, False
            self._poll_wanted.clear()
            was_closed, wait_s = self.relay.closed, self.settings["poll_s"]
            if await self.meter.poll():
                self.trial.note("meter")
            if asked:
                self.reporter.asked = True
            self.wake.set()
            if self.relay.closed != was_closed:
                # What is told of the relay wants a reading from after its move.
                self._asked, wait_s = True, _SETTLED_S
            try:
                await asyncio.wait_for(self._poll_wanted.wait(), wait_s)
            except asyncio.TimeoutError:
                pass

    async def _set_up(self):
        """A node without a network opens its portal, and meters meanwhile."""
        # Loaded only where it is wanted: it is a tenth of the program.
        from node.portal import Portal

        await Portal(self.board, self.device_id, self.secret).run()
        self.supervisor.restart("portal")

    async def _keep_time(self):
        """Keep the clock and, where a time server is named, ask it."""
        server = kept(self.board, "broker").get("ntp")
        while True:
            self.supervisor.beat("clock", 60)
            self.clock.keep()
            if server and self.board.wifi_connected():
                await self.clock.ask_server(server)
            await asyncio.sleep(_CLOCK_S)

    def _is_alone(self):
        """Whether the lease's limits are this node's matter: not while a gateway sees to them, nor
        in an update's trial, whose end may bring a version back that knows no such reason.
        """
        return self.backlog.is_away() and not self.trial.under_way

    def _check_trial(self):
        try:
            if self.trial.check():
                self.events.add("update_proved", version=self.version)
        except OSError:
            pass  # the flash refuses; the next look tries again

    def _count_boot(self):
        """The number of this boot; one that cannot be kept is counted all the same."""
        boots = int.from_bytes(self.board.nvs_get("boots") or b"", "big") + 1
        try:
            self.board.nvs_set("boots", boots.to_bytes(4, "big"))
            self.board.nvs_commit()
        except OSError:
            pass
        return boots

    def _make_data(self):
        try:
            self.board.files.mkdir("/data")
        except OSError:
            pass  # it is there; if not, whoever writes says so

    def _read_settings(self):
        try:
            with self.board.files.open(SETTINGS_PATH, "rb") as file:
                return file.read(4_096)
        except OSError:
            return b"{}"

    def _open_spool(self):
        spool = Spool(self.board.files, "/data/spool", self.settings["spool_files"])
        try:
            spool.open(self.board.watchdog_feed)
        except OSError:
            return None
        return spool


def name_of(board):
    """The device's id: as provisioned, else by its MAC."""
    kept_id = (board.nvs_get("device_id") or b"").decode()
    return kept_id or "node-" + binascii.hexlify(board.unique_id()).decode()


async def run(board, slot="a"):
    """Be a node; returns when a restart is wanted, which is the caller's to do."""
    await Node(board, slot).live()


def main(slot):
    """Run the application of a slot on the device. Ends in a reset."""
    from node import board_esp32

    board = board_esp32.Board()
    asyncio.run(run(board, slot))
    board.reset()


def safe(slot):  # noqa: ARG001 - the loader's interface
    """Safe mode: the portal alone, until something was saved or the loader's time is over.

    The relay stays as boot.py has set it.
    """
    from node import board_esp32
    from node.portal import Portal

    board = board_esp32.Board()
    secret = board.nvs_get("secret")
    if secret:
        asyncio.run(Portal(board, name_of(board), secret).run())
        board.reset()
