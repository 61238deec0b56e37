"""The credit lease of a node: up to which counter it keeps supply while nobody answers.

The gateway grants a cut-off of the node's own folded counter: what the credit buys at the lowest
prices that can hold until the lease expires (`lease_prices.py`), and a margin on top. A lease
therefore never cuts anybody who still has credit; what is used beyond the credit is charged like
all energy. While the gateway is there, it cuts by its own rules and command. Power limits hold
while it is away only (docs/node-protocol.md, Relay and lease).
"""

from dataclasses import dataclass, replace
from typing import Final

# What a node's 31-bit field holds; a counter of 2,147,483 kWh is never reached.
UNLIMITED_WH: Final = 2**31 - 1
LEASE_S: Final = 7 * 86_400
# As when a lease ends, told while the wall clock is in doubt.
NEVER_S: Final = 0
# A lease is granted this far beyond the credit, so that a node need not hear of every watt-hour.
MARGIN_WH: Final = 100
MARGIN_PERCENT: Final = 1
# What a node can be told; its module measures less.
LIMIT_MAX_W: Final = 100_000


@dataclass(frozen=True, slots=True)
class PowerLimits:
    """What may be drawn while the gateway is away, W; 0 is no limit.

    `emergency_w` holds from the counter `emergency_wh` on; 0: from none.
    """

    limit_w: int = 0
    emergency_w: int = 0
    emergency_wh: int = 0


NO_LIMITS: Final = PowerLimits()


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease: cut-off of the folded counter (Wh), when it expires (wall seconds), limits, and by
    how much the cut-off is later once it has."""

    cutoff_wh: int
    expires_s: int
    limits: PowerLimits = NO_LIMITS
    grace_wh: int = 0

    @property
    def is_unlimited(self) -> bool:
        """Whether it cuts nobody."""
        return self.cutoff_wh == UNLIMITED_WH and self.limits == NO_LIMITS


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a node should hold now, without any margin.

    `is_cut`: supply is off for credit already, so that a lease can cut nobody, and nothing beyond
    the counter is granted until there is credit. `grace_wh`: so much longer the credit may last for
    a node that is alone when the lease ends.
    """

    registers_wh: int
    cutoff_wh: int
    limits: PowerLimits = NO_LIMITS
    is_cut: bool = False
    grace_wh: int = 0


def limits_of(limit_w: int | None, emergency_w: int | None, emergency_wh: int) -> PowerLimits:
    """Limits as a node can be told them; what it cannot measure is no limit of it.

    `emergency_wh` is where emergency credit begins at the latest; UNLIMITED_WH: nowhere.
    """
    usual_w = limit_w if limit_w is not None and limit_w <= LIMIT_MAX_W else 0
    if emergency_w is None or emergency_w > LIMIT_MAX_W or emergency_wh == UNLIMITED_WH:
        return PowerLimits(usual_w)
    return PowerLimits(usual_w, emergency_w, emergency_wh)


def renewed(held: Grant | None, wanted: Wanted, now_s: int | None) -> Grant | None:
    """The lease to grant in place of `held`; None while that one may stand.

    It may stand while no counter of it is below what is wanted or far above, its limits are the
    right ones, and it is less than half over. `now_s` None: the wall clock is in doubt. Nothing is
    limited then that was not, and nothing of what is held is taken back.
    """
    if held is None:
        return None if now_s is None else granted(wanted, now_s)
    registers_wh, limits = wanted.registers_wh, wanted.limits
    same = (held.limits.limit_w, held.limits.emergency_w) == (limits.limit_w, limits.emergency_w)
    begins = _fits(held.limits.emergency_wh, limits.emergency_wh, registers_wh)
    if now_s is None:
        is_young, fits = True, wanted.is_cut or wanted.cutoff_wh <= held.cutoff_wh
    else:
        is_young = now_s <= held.expires_s - LEASE_S // 2
        fits = wanted.cutoff_wh <= held.cutoff_wh <= _beyond(wanted.cutoff_wh, registers_wh, 3)
        if wanted.is_cut:
            fits = held.cutoff_wh <= registers_wh
    if is_young and same and begins and fits:
        return None
    return granted(wanted, now_s, held)


def granted(wanted: Wanted, now_s: int | None, held: Grant | None = None) -> Grant:
    """The lease that gives what is wanted, with its margin.

    While the wall clock is in doubt (`now_s` None) it ends never, and not before `held`.
    """
    registers_wh, limits = wanted.registers_wh, wanted.limits
    cutoff = registers_wh if wanted.is_cut else _beyond(wanted.cutoff_wh, registers_wh)
    if limits.emergency_wh > registers_wh:
        limits = replace(limits, emergency_wh=_beyond(limits.emergency_wh, registers_wh))
    if now_s is not None:
        return Grant(cutoff, now_s + LEASE_S, limits, 0 if wanted.is_cut else wanted.grace_wh)
    return Grant(cutoff if held is None else max(cutoff, held.cutoff_wh), NEVER_S, limits)


def _beyond(wanted_wh: int, registers_wh: int, times: int = 1) -> int:
    """A counter that is wanted with its margin, perhaps several times of it."""
    margin_wh = MARGIN_WH + max(0, wanted_wh - registers_wh) * MARGIN_PERCENT // 100
    return min(UNLIMITED_WH, wanted_wh + times * margin_wh)


def _fits(held_wh: int, wanted_wh: int, registers_wh: int) -> bool:
    """Whether emergency credit begins where it should: both behind the counter, or near."""
    if wanted_wh <= registers_wh:
        return held_wh <= registers_wh and bool(held_wh) == bool(wanted_wh)
    return wanted_wh <= held_wh <= _beyond(wanted_wh, registers_wh, 3)
