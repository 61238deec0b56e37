"""What happens around a node that runs: its timers, and quarters of an hour when the test says."""

import asyncio

import machine
import wires


async def timer(mode, period_ms, callback):
    """One of machine.timers, as its own task."""
    while True:
        await asyncio.sleep(period_ms / 1_000)
        callback(None)
        if mode == machine.Timer.ONE_SHOT:
            return


class Nodes:
    """What the application makes; to be there before it does."""

    def __init__(self, app):
        self.made = []
        make = app.Node

        def node(board, slot):
            self.made.append(make(board, slot))
            return self.made[0]

        app.Node = node

    async def quarters(self):
        """A quarter of an hour is over, whenever the test says so."""
        while True:
            await asyncio.sleep(0.02)
            for _ in range(wires.quarters()):
                self.made[0].backlog.keep()
