"""Powers the node on: boot.py and main.py as they are; what would block is awaited here."""

import asyncio
import binascii
import os
import sys

import jsesp
import jsnet
import machine

from tests.firmware.runner.js_board import Reader, Writer


def _run(work):
    raise machine.Running(work)


async def _open_connection(host, port, ssl=None, server_hostname=None):
    assert ssl is None
    try:
        connection = await jsnet.connect(host, port)
    except Exception as error:
        raise OSError(str(error)) from None
    return Reader(connection), Writer(connection)


async def _timer(mode, period_ms, callback):
    while True:
        await asyncio.sleep(period_ms / 1_000)
        callback(None)
        if mode == machine.Timer.ONE_SHOT:
            return


async def _quarters(app):
    """A quarter of an hour is over, whenever the test says so."""
    make, made = app.Node, []

    def node(board, slot):
        made.append(make(board, slot))
        return made[0]

    app.Node = node
    while True:
        await asyncio.sleep(0.02)
        for _ in range(jsesp.quarters()):
            made[0].backlog.keep()


async def boot():
    """Run until the node resets."""
    asyncio.run = _run
    asyncio.open_connection = _open_connection
    os.urandom = lambda count: binascii.unhexlify(jsesp.random(count))
    try:
        for path in ("/boot.py", "/main.py"):
            with open(path) as file:
                exec(file.read(), {"__name__": "__main__"})
    except machine.Running as running:
        others = [asyncio.create_task(_timer(*timer)) for timer in machine.timers]
        others.append(asyncio.create_task(_quarters(sys.modules["node.app"])))
        await asyncio.sleep(0)
        try:
            await running.work
        except Exception as error:
            sys.print_exception(error)
        machine.reset()
