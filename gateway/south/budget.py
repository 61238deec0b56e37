"""How many messages a device may send: who floods is left out, and all others are heard."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

NS: Final = 1_000_000_000
# A node sends one each ten seconds and on change, and answers what it is asked.
PER_S: Final = 10
# What it sends at once after a time without broker, events and kept readings.
BURST: Final = 100
# A segment of kept readings is as much work as many live ones.
COST: Final = {"backlog": 10}
# Names beyond those of the present ones are forgotten, the longest silent first.
NAMES_MAX: Final = 10_000
FLOOD: Final = f"more than {PER_S} messages a second: some are left out"
# Who floods is told once, and again after so long without.
QUIET_NS: Final = 60 * NS


@dataclass(slots=True)
class _Held:
    """Tokens of a device, in ns of a second's share, counted at `since_ns`; when something of it
    was left out last, and whether that is still to be told.
    """

    tokens: int
    since_ns: int
    over_ns: int | None = None
    is_news: bool = False


class Budget:
    """Tokens for each device: `PER_S` a second, at most `BURST`. Pure; time comes with messages."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def admits(self, device_id: str, kind: str, now_ns: int) -> bool:
        """Whether a message is to be heard; each costs tokens, a kind of more work more of them."""
        held = self._held.pop(device_id, None) or _Held(BURST * NS, now_ns)
        self._held[device_id] = held
        if len(self._held) > NAMES_MAX:
            self._held.popitem(last=False)
        held.tokens = min(BURST * NS, held.tokens + (now_ns - held.since_ns) * PER_S)
        held.since_ns = now_ns
        cost = COST.get(kind, 1) * NS
        if held.tokens >= cost:
            held.tokens -= cost
            return True
        if held.over_ns is None or now_ns - held.over_ns >= QUIET_NS:
            held.is_news = True
        held.over_ns = now_ns
        return False

    def is_news(self, device_id: str) -> bool:
        """Whether it is to be told now that something of this device was left out: once a flood."""
        held = self._held.get(device_id)
        if held is None or not held.is_news:
            return False
        held.is_news = False
        return True
