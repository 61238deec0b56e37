"""The link by its own: what ends a connection, and what follows for the next one."""

import asyncio

from node.backlog import Backlog
from node.link import Link
from node.supervisor import Supervisor
from tests.firmware.same.clocks import ClockBoard
from tests.firmware.same.test_telemetry import SmallNode


class Trial:
    """An update that proved itself long ago."""

    under_way = False

    def note(self, need):
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

    def __init__(self):
        super().__init__()
        self.wake = asyncio.Event()
        self.supervisor = Supervisor(self.clock, self.events, lambda: None)
        self.trial = Trial()
        self.spool = None
        self.link = Link(self)
        self.backlog = Backlog(self)

    async def linked(self, seconds):
        """Let the link work for so long. Returns what ended it, None when nothing did."""
        task = asyncio.create_task(self.link.run())
        await asyncio.sleep(seconds)
        if not task.done():
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return None
        except Exception as error:
            return error


async def test_no_fault_of_a_connection_ends_the_link():
    """One that nobody expected is told once; memory alone is the supervisor's."""
    node = LinkNode()
    node.board.fault = ValueError("bad certificate")
    assert await node.linked(0.7) is None
    assert node.board.opened >= 1
    assert [e["kind"] for e in node.events._waiting] == ["task_failed"]
    assert "bad certificate" in node.events._waiting[0]["message"]
    node.board.nvs["broker"] = b'{"host": "h"}'
    assert await node.linked(0.05) is None
    assert node.supervisor.restart_reason is None
    node = LinkNode()
    node.board.fault = MemoryError("full")
    assert isinstance(await node.linked(0.05), MemoryError)
