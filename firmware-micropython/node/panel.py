"""Button and lamp. A press is the customer's confirmation; what follows from it the gateway says.

The lamp: steady while supply is on and the broker is there, a short blink each second without the
broker, two blinks while supply is off, quick while the node is to be found.
"""

import asyncio

from node.port import const

STEP_S = 0.1
_STEPS = const(10)
_PRESSES = const(2)  # equal looks at the button before it counts
_STEADY = "1111111111"
_ALONE = "1000000000"
_OFF = "1010000000"
_QUICK = "1010101010"


class Panel:
    """One button, one lamp."""

    def __init__(self, node):
        self._node = node
        self._step = 0
        self._identify_until_s = 0
        self._looks = 0
        self._lit = None

    def identify(self, seconds):
        """Blink quickly for so long."""
        self._identify_until_s = self._node.clock.now_s() + seconds

    def pattern(self):
        """What the lamp shows now, a digit for each tenth of a second."""
        node = self._node
        if node.clock.now_s() < self._identify_until_s:
            return _QUICK
        if not node.relay.closed:
            return _OFF
        return _STEADY if node.link.connected else _ALONE

    async def run(self):
        """Look at the button and light the lamp for ever."""
        while True:
            self._node.supervisor.beat("panel", 30)
            self._look()
            lit = self.pattern()[self._step] == "1"
            self._step = (self._step + 1) % _STEPS
            if lit != self._lit:
                self._node.board.led(lit)
                self._lit = lit
            await asyncio.sleep(STEP_S)

    def _look(self):
        """A press is told once, when the button has been down for two looks."""
        if not self._node.board.button_pressed():
            self._looks = 0
            return
        self._looks += 1
        if self._looks == _PRESSES:
            self._node.events.add("button")
