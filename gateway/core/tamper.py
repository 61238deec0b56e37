"""Signs that somebody worked on a meter: change counters, resets, supply behind an open output.

Settings of a meter may be changed by those who commission it. They say so before or
after (`acknowledge`); anything else is a sign, and stands until a person answers for it. A sign is
no proof: what follows is an alarm. Source of the counters: PAC3220 EM p116 (217, 219, 221), of the
reset bit EM p120.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from gateway.core.errors import RefusedError

# Nobody works on one meter for longer (domain.md section 8: a technician's override, 8 h).
ANNOUNCED_MAX_S: Final = 8 * 3_600


class Sign(StrEnum):
    """What was seen."""

    SETTINGS_CHANGED = "settings_changed"
    METER_RESET = "meter_reset"
    COUNTERS_RESET = "counters_reset"
    UNAUTHORISED_SUPPLY = "unauthorised_supply"


# What a person who works at the meter does himself.
ANNOUNCEABLE: Final = frozenset({Sign.SETTINGS_CHANGED, Sign.METER_RESET, Sign.COUNTERS_RESET})


@dataclass(frozen=True, slots=True)
class Look:
    """What one good reading shows.

    `counters` are the change counters of the model, None where this reading has none. `was_reset`
    is the guard's verdict, `reset_bit` the meter's latched bit (None: not read),
    `unauthorised` the supply's alarm. `disturbed` says that the meter had restarted or was away.
    """

    counters: tuple[int, ...] | None
    reset_bit: bool | None
    was_reset: bool = False
    unauthorised: bool = False
    disturbed: bool = False


@dataclass(frozen=True, slots=True)
class Suspected:
    """A sign that stands: when it was first seen and what it was."""

    sign: Sign
    since_utc_ms: int
    detail: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one look brought: new signs, changes that are accounted for, whether to keep the state.

    `settings` describes a change of settings that is no sign (announced, or not watched there).
    """

    suspected: tuple[Suspected, ...] = ()
    settings: str = ""
    changed: bool = False


NOTHING: Final = Found()


class TamperWatch:
    """What is known of one meter. Signs latch; a restart of the gateway forgets nothing."""

    def __init__(self) -> None:
        self.counters: tuple[int, ...] | None = None
        self.signs: dict[Sign, Suspected] = {}
        self.announced_until_utc_ms = 0
        self._doubt: tuple[int, ...] | None = None
        # Conditions that go on, and were told: they are news again only after they were over.
        self._known: set[Sign] = set()
        self._fresh = True
        self._shaken = False

    @property
    def suspected(self) -> bool:
        """Whether a sign stands that nobody has answered for."""
        return bool(self.signs)

    @property
    def waits(self) -> bool:
        """Whether the next reading has to confirm what the last one showed."""
        return self._doubt is not None

    def is_announced(self, utc_ms: int) -> bool:
        """Whether somebody said that he works on the meter now."""
        return 0 < self.announced_until_utc_ms - utc_ms <= ANNOUNCED_MAX_S * 1000

    def see(self, look: Look, *, utc_ms: int, watched: bool) -> Found:
        """Take in one good reading.

        Where `watched` is False (the point is not in service yet) settings may change freely.
        """
        excused = self.is_announced(utc_ms)
        fresh, self._fresh = self._fresh, False
        before = (self.counters, frozenset(self._known))
        new: list[Suspected] = []
        settings = ""
        moved = self._moved(look)
        # Whether a device keeps these counters without power is not documented.
        if moved and (excused or not watched or (moved.fell and moved.disturbed)):
            settings = moved.text
        elif moved:
            new += self._suspect(Sign.SETTINGS_CHANGED, utc_ms, moved.text)
        if look.was_reset and not excused:
            new += self._suspect(Sign.METER_RESET, utc_ms, "an energy counter began again at zero")
        if look.reset_bit is not None:
            new += self._condition(
                Sign.COUNTERS_RESET,
                utc_ms,
                "the meter says that its counters were reset by hand",
                stands=look.reset_bit,
                # Bits that were set before anybody looked say nothing of this meter's time here.
                excused=excused or fresh,
            )
        new += self._condition(
            Sign.UNAUTHORISED_SUPPLY,
            utc_ms,
            "energy or current behind an open output",
            stands=look.unauthorised,
            excused=False,
        )
        changed = fresh or bool(new) or before != (self.counters, frozenset(self._known))
        return Found(tuple(new), settings, changed) if changed else NOTHING

    def acknowledge(self) -> tuple[Sign, ...]:
        """A person answers for what stands; what stood. Raises RefusedError NOTHING_SUSPECTED."""
        if not self.signs:
            raise RefusedError("NOTHING_SUSPECTED", "no sign of tampering stands at this meter")
        stood = tuple(self.signs)
        self.signs.clear()
        return stood

    def announce(self, utc_ms: int, *, for_s: int) -> None:
        """A person works at the meter from now on; what stands already goes on standing.

        Raises RefusedError ANNOUNCED_RANGE.
        """
        if not 0 < for_s <= ANNOUNCED_MAX_S:
            raise RefusedError(
                "ANNOUNCED_RANGE", f"1 to {ANNOUNCED_MAX_S} s can be announced", "for_s"
            )
        self.announced_until_utc_ms = utc_ms + for_s * 1000

    def replaced(self) -> None:
        """Another device: its counters are a new base. What was suspected of the old one stands."""
        self.counters = self._doubt = None
        self._known.discard(Sign.COUNTERS_RESET)
        self._fresh = True

    def snapshot(self) -> dict[str, object]:
        """State as JSON values."""
        return {
            "counters": None if self.counters is None else list(self.counters),
            "announced_until_utc_ms": self.announced_until_utc_ms,
            "known": sorted(self._known),
            "signs": [
                [found.sign.value, found.since_utc_ms, found.detail]
                for found in self.signs.values()
            ],
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from `snapshot`."""
        counters = cast("Sequence[int] | None", state["counters"])
        self.counters = None if counters is None else tuple(counters)
        self.announced_until_utc_ms = cast("int", state["announced_until_utc_ms"])
        self._known = {Sign(name) for name in cast("Sequence[str]", state["known"])}
        self._fresh = False
        signs = cast("Sequence[tuple[str, int, str]]", state["signs"])
        self.signs = {Sign(name): Suspected(Sign(name), at, text) for name, at, text in signs}

    # -- inside ----------------------------------------------------------------------------

    def _moved(self, look: Look) -> "_Move | None":
        """A change of the counters that two readings in a row agree on; the base follows it."""
        self._shaken = self._shaken or look.disturbed
        if look.counters is None:
            return None
        base, doubt, shaken = self.counters, self._doubt, self._shaken
        self._doubt = None
        if base is None or len(base) != len(look.counters):
            self.counters, self._shaken = look.counters, False
            return None
        if look.counters == base:
            self._shaken = False
            return None
        if look.counters != doubt:
            self._doubt = look.counters
            return None
        self.counters, self._shaken = look.counters, False
        fell = any(now < last for now, last in zip(look.counters, base, strict=True))
        text = f"change counters {_shown(base)} are now {_shown(look.counters)}"
        return _Move(text, fell, shaken)

    def _condition(
        self, sign: Sign, utc_ms: int, detail: str, *, stands: bool, excused: bool
    ) -> list[Suspected]:
        if not stands:
            self._known.discard(sign)
            return []
        if sign in self._known:
            return []
        self._known.add(sign)
        return [] if excused else self._suspect(sign, utc_ms, detail)

    def _suspect(self, sign: Sign, utc_ms: int, detail: str) -> list[Suspected]:
        if sign in self.signs:
            return []
        found = self.signs[sign] = Suspected(sign, utc_ms, detail)
        return [found]


@dataclass(frozen=True, slots=True)
class _Move:
    """How the change counters moved; `fell` says that one is lower than before.

    `disturbed` says that the meter may have been without power in between.
    """

    text: str
    fell: bool
    disturbed: bool


def _shown(counters: Sequence[int]) -> str:
    return "/".join(map(str, counters))
