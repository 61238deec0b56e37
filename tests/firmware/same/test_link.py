"""The link by its own: what ends a connection, and what follows for the next one."""

import asyncio

from node.backlog import Backlog
from node.link import Link
from node.spool import Spool
from node.supervisor import Supervisor
from node.telemetry import Reporter
from tests.firmware.same.clocks import ClockBoard
from tests.firmware.same.memory import MemoryBoard
from tests.firmware.same.test_mqtt import WELCOME, Peer
from tests.firmware.same.test_telemetry import SmallNode

SUBSCRIBED = b"\x90\x03\x00\x01\x01"


class Trial:
    """An update that proved itself long ago."""

    under_way = False

    def note(self, need):
        pass


class NoUpdate:
    """No update is on its way."""

    active = False

    def state(self):
        pass


class LinkBoard(ClockBoard):
    """In a network; each connection is the next of `peers`, or raises `fault`."""

    def __init__(self):
        super().__init__()
        self.nvs["broker"] = b'{"host": "h", "port": 1}'
        self.peers = []
        self.fault = OSError(113)
        self.opened = 0

    def wifi_connected(self):
        return True

    def reset_cause(self):
        return "power_on"

    def random(self, count):
        return bytes(count)

    async def resolve(self, host):
        return host

    async def open_stream(self, *_where):
        self.opened += 1
        if not self.peers:
            raise self.fault
        return self.peers[0], self.peers.pop(0)


class LinkNode(SmallNode):
    """As much of a node as its link needs."""

    Board = LinkBoard
    secret = bytes(32)
    slot = "a"
    hardware = ""

    def __init__(self):
        super().__init__()
        self.wake = asyncio.Event()
        self.supervisor = Supervisor(self.clock, self.events, lambda: None)
        self.trial = Trial()
        self.spool = None
        self.reporter = Reporter()
        self.updating = NoUpdate()
        self.link = Link(self)
        self.backlog = Backlog(self)

    async def linked(self, fits):
        """Let the link work until something is so. Returns what ended it, None: nothing did."""
        task = asyncio.create_task(self.link.run())
        await until(lambda: task.done() or fits())
        if not task.done():
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return None
        except Exception as error:
            return error


async def until(fits):
    """Wait for something, ten seconds at most."""
    for _ in range(1_000):
        if fits():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


async def test_no_fault_of_a_connection_ends_the_link():
    """One that nobody expected is told once; memory alone is the supervisor's."""
    node = LinkNode()
    node.board.fault = ValueError("bad certificate")
    assert await node.linked(lambda: node.board.opened == 2) is None
    assert [e["kind"] for e in node.events._waiting] == ["task_failed"]
    assert "bad certificate" in node.events._waiting[0]["message"]
    node.board.nvs["broker"] = b'{"host": "h"}'
    assert await node.linked(lambda: len(node.events._waiting) == 2) is None
    assert "port" in node.events._waiting[1]["message"]
    assert node.supervisor.restart_reason is None
    node = LinkNode()
    node.board.fault = MemoryError("full")
    assert isinstance(await node.linked(lambda: False), MemoryError)


def short_lived():
    """A broker that lets the node in and hangs up."""
    peer = Peer(WELCOME, SUBSCRIBED)
    peer.end()
    return peer


async def test_a_connection_that_breaks_off_at_once_is_a_failure():
    """The waits go on growing: only one that stood for a minute begins them anew."""
    node = LinkNode()
    node.board.peers = [short_lived(), short_lived()]
    assert await node.linked(lambda: node.board.opened == 2 and not node.link._client) is None
    assert node.link._backoff.failed() == 2_000
    assert not node.events._waiting
    peer = Peer(WELCOME, SUBSCRIBED)
    node.board.peers = [peer]
    task = asyncio.create_task(node.link.run())
    await until(lambda: node.link.connected and b"firmware" in peer.got)
    node.board.pass_s(60)
    peer.say(b"\x40\x02\x00\x02")  # it has the status
    await until(lambda: not node.link._backoff._step_ms)
    task.cancel()
    assert node.link._backoff.failed() == 0


class BrokenFiles:
    """The files of a flash that cannot be read."""

    def open(self, path, mode):
        raise OSError(5)


async def test_a_segment_that_cannot_be_read_is_told_and_left_for_later():
    """The connection goes on; ever later it is tried again."""
    node = LinkNode()
    node.spool = Spool(MemoryBoard().files, "/s", 2)
    node.spool.open(lambda: None)
    node.backlog.keep()
    files, node.spool._files = node.spool._files, BrokenFiles()
    assert node.backlog.next_message() is None
    assert [e["kind"] for e in node.events._waiting] == ["storage_failed"]
    node.board.pass_s(20)
    assert node.backlog.next_message() is None
    assert len(node.events._waiting) == 1
    node.spool._files = files
    assert node.backlog.next_message() is None
    node.board.pass_s(40)
    assert b'"segment": 0' in node.backlog.next_message()
