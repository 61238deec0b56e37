"""Powers the node on: boot.py and main.py as they are; what would block is awaited here."""

import asyncio
import binascii
import gc
import json
import os
import sys

import jsnet
import machine
import wires
from around import Nodes, timer

from tests.firmware.runner.js_board import Reader, Writer

_LOOKS = 3


def _run(work):
    raise machine.Running(work)


class _Stream(Writer):
    """As MicroPython's: `close` does nothing, `wait_closed` closes."""

    def close(self):
        pass

    async def wait_closed(self):
        super().close()


async def _open_connection(host, port, ssl, server_hostname=None):
    assert ssl.context is None
    try:
        connection = await jsnet.connect(host, port)
    except Exception as error:
        raise OSError(str(error)) from None
    return Reader(connection), _Stream(connection)


async def _held():
    """Bytes in use of the heap, once nothing is left to collect.

    What other tasks leave behind meanwhile counts too: of some looks the least is nearest.
    """
    looks = []
    for _ in range(_LOOKS):
        # What JavaScript's collector has not let go of yet would be counted as ours.
        await wires.tidy()
        gc.collect()
        # This build collects when nothing of it runs.
        await asyncio.sleep(0.001)
        looks.append(gc.mem_alloc())
    return min(looks)


async def _samples(app, seconds, before):
    """What the node holds, now and then: bytes in use, and everything that waits.

    `before`: what this interpreter and the device's stand-ins held before the node was there.
    """
    nodes = Nodes(app)
    while True:
        await asyncio.sleep(seconds)
        held = await _held()
        it = nodes.made[0]
        client = it.link._client
        told = {
            "bytes": held - before,
            "before": before,
            "connected": client is not None,
            "events": len(it.events._waiting),
            "lost": it.events.lost,
            "results": len(it.link._results),
            "messages": len(client._messages) if client else 0,
            "unanswered": len(client._waiting) if client else 0,
            "spooled": it.spool.waiting if it.spool else 0,
            "spool_lost": it.spool.lost if it.spool else 0,
            "updating": it.updating.active,
            "failures": len(it.supervisor._failures_s),
            "error": it.supervisor.last_error,
            "uptime_s": it.clock.now_s(),
        }
        wires.sample(json.dumps(told))


async def boot():
    """Run until the node resets."""
    asyncio.run = _run
    asyncio.open_connection = _open_connection
    os.urandom = lambda count: binascii.unhexlify(wires.random(count))
    seconds = wires.sample_s()
    before = 0
    if seconds:
        for name in ("esp32", "network", "socket", "ssl"):
            __import__(name)
        before = await _held()
    try:
        for path in ("/boot.py", "/main.py"):
            with open(path) as file:
                exec(file.read(), {"__name__": "__main__"})
    except machine.Running as running:
        others = [asyncio.create_task(timer(*one)) for one in machine.timers]
        app = sys.modules["node.app"]
        look = _samples(app, seconds, before) if seconds else Nodes(app).quarters()
        others.append(asyncio.create_task(look))
        await asyncio.sleep(0)
        try:
            await running.work
        except Exception as error:
            sys.print_exception(error)
        machine.reset()
