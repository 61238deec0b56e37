"""Energy that flows from the customer: counted, told once a day, or paid for.

Export registers are guarded like import ones, by a guard of their own: a jump is not energy.
`ignored` leaves it at the meter; `alarmed` is for points where none is expected; with `credited`
the account gets the feed-in price of its tariff for it, in the postings of its point (`FeedIn`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import cast

from gateway.core.guard import RegisterGuard, VerdictKind
from gateway.core.ledger import ExportRegisters, RebaseFlag, SettlementLine
from gateway.core.reading import Reading
from gateway.core.tally import Posting


class ExportPolicy(StrEnum):
    """What becomes of energy that a customer feeds in."""

    IGNORED = "ignored"
    ALARMED = "alarmed"
    CREDITED = "credited"


class ExportCounter:
    """A meter's export registers for watching: what they advanced by, nothing held back.

    A jump counts for nothing and is the next base, since no money hangs on it.
    """

    def __init__(self, guard: RegisterGuard) -> None:
        self._guard = guard

    def see(
        self, sequence: int, mono_ns: int, energy_wh: tuple[int, ...], *, disturbed: bool
    ) -> int:
        """Wh that were fed in since the reading before, over all registers."""
        verdict = self._guard.check(sequence, mono_ns, energy_wh, communication_lost=disturbed)
        if self._guard.held:
            self._guard.release(accept=False)
            return 0
        return sum(verdict.advance_wh) if verdict.settles else 0


class ExportDay:
    """Feed-in of one local day, told once when it is more than a transformer's noise."""

    def __init__(self) -> None:
        self.day = 0
        self.fed_wh = 0
        self._told = False

    def see(self, day: int, fed_wh: int, *, alarm_wh: int) -> int | None:
        """Add energy to a local day (days since 1970); the day's Wh when it is to be told."""
        if day != self.day:
            self.day, self.fed_wh, self._told = day, 0, False
        self.fed_wh += fed_wh
        if self._told or self.fed_wh < alarm_wh:
            return None
        self._told = True
        return self.fed_wh

    def snapshot(self) -> list[object]:
        """State as JSON values."""
        return [self.day, self.fed_wh, self._told]

    def restore(self, state: Sequence[object]) -> None:
        """Go on from `snapshot`."""
        day, fed_wh, told = state
        self.day, self.fed_wh, self._told = cast("int", day), cast("int", fed_wh), bool(told)


class FeedIn:
    """Export registers of a meter whose feed-in is paid for: guarded, counted line by line.

    `places` are theirs among the values of a reading. What is doubtful is held and paid to nobody
    until a person decides, and holds up nothing else. While `is_credited` is False (the setting was
    taken away) readings are passed over, and what was counted before can still be posted.
    """

    def __init__(
        self, guard: Callable[[], RegisterGuard], places: Sequence[int], *, is_credited: bool = True
    ) -> None:
        self._new_guard = guard
        self._guard = guard()
        self._places = tuple(places)
        self.is_credited = is_credited
        # The tariff without a feed-in price that was told of last.
        self.unpriced_under = ""
        self._disturbed = True
        self._from_wh: tuple[int, ...] | None = None
        self._to_wh: tuple[int, ...] | None = None
        self._advance_wh: tuple[int, ...] = ()
        self._flags: set[str] = set()

    @property
    def held(self) -> bool:
        """Whether energy that was fed in waits for a person's decision."""
        return self._guard.held

    @property
    def held_wh(self) -> tuple[int, ...]:
        """What waits, per register; negative where a register fell."""
        return self._guard.held_wh

    @property
    def registers_wh(self) -> tuple[int, ...] | None:
        """The last good registers; None before the first."""
        return self._to_wh

    def disturbed(self) -> None:
        """The meter could not be read, or began anew: its registers may have fallen."""
        self._disturbed = True

    def see(self, reading: Reading) -> tuple[int, tuple[str, ...]]:
        """Take a reading whose import is good: Wh that were fed in, and events for people.

        Registers that are missing, or no possible counter, are waited for.
        """
        registers_wh = self._registers_of(reading)
        if registers_wh is None:
            return 0, ()
        verdict = self._guard.check(
            reading.sequence,
            reading.mono_ns,
            registers_wh,
            asked_ns=reading.asked_ns,
            communication_lost=self._disturbed,
        )
        self._disturbed = False
        if verdict.settles:
            if verdict.kind is VerdictKind.BASELINE and self._to_wh != registers_wh:
                self._flags.add(RebaseFlag.EXPORT_BEGUN)
            if self._from_wh is None:
                self._from_wh = registers_wh
            self._flags.update(verdict.events)
            self._count(verdict.advance_wh, registers_wh)
        return sum(verdict.advance_wh), verdict.events

    def begin(self) -> None:
        """What was counted so far is nobody's: an account's first line starts here."""
        self._next()
        self._flags.add(RebaseFlag.EXPORT_BEGUN)

    def release(self, *, accept: bool) -> tuple[int, ...]:
        """A manager decides on what is held; the Wh that are paid for by it, per register."""
        advance_wh = self._guard.release(accept=accept)
        self._flags.add(RebaseFlag.RELEASED)
        self._count(advance_wh, self._guard.registers_wh or ())
        return advance_wh

    def replaced(self) -> None:
        """Another device was built in: it counts from its first reading."""
        self._guard = self._new_guard()

    def onto(
        self, lines: Sequence[SettlementLine], postings: Sequence[Posting]
    ) -> list[SettlementLine]:
        """The lines of a posting with what was fed in under each of them; the next begin here.

        The last one ends at the registers as they were read.
        """
        from_wh, to_wh = self._from_wh, self._to_wh
        if not lines or from_wh is None or to_wh is None:
            return list(lines)
        left_wh = list(self._advance_wh or (0,) * len(to_wh))
        shares_wh = [posting.fed_wh for posting in postings] or [0]
        told: list[SettlementLine] = []
        for number, (line, share_wh) in enumerate(zip(lines, shares_wh, strict=True), start=1):
            is_last = number == len(lines)
            advance_wh = tuple(left_wh) if is_last else _part(left_wh, share_wh)
            left_wh = [wh - part for wh, part in zip(left_wh, advance_wh, strict=True)]
            ends_wh = to_wh if is_last else _sum(from_wh, advance_wh)
            fed = ExportRegisters(from_wh, ends_wh, advance_wh, tuple(sorted(self._flags)))
            moved = any(advance_wh) or from_wh != ends_wh or (is_last and bool(self._flags))
            told.append(replace(line, export=fed) if moved else line)
            from_wh = ends_wh
        self._next()
        return told

    def wake(self, by_ns: int) -> None:
        """The machine was off: the last good registers are so much older than they seemed."""
        state = self._guard.snapshot()
        self._guard.restore(state, mono_ns=cast("int", state["mono_ns"]) + by_ns)

    def snapshot(self) -> dict[str, object]:
        """State as JSON values."""
        return {
            "credited": self.is_credited,
            "guard": self._guard.snapshot(),
            "from_wh": self._from_wh,
            "to_wh": self._to_wh,
            "advance_wh": self._advance_wh,
            "flags": sorted(self._flags),
        }

    def restore(self, state: Mapping[str, object], *, mono_ns: int) -> None:
        """Go on from `snapshot`; `mono_ns` is this boot's time of the last good registers.

        Registers that were not followed meanwhile begin anew when they are followed again; until
        then what is held stays. Raises RefusedError GUARD_STATE.
        """
        to_wh = _registers(state["to_wh"])
        if self._places and to_wh is not None and len(to_wh) != len(self._places):
            # A device with other registers: nothing of the old ones can be gone on from.
            return
        self._from_wh, self._to_wh = _registers(state["from_wh"]), to_wh
        self._advance_wh = _registers(state["advance_wh"]) or ()
        self._flags = set(cast("Sequence[str]", state["flags"]))
        if state["credited"] or not self.is_credited:
            self._guard.restore(cast("Mapping[str, object]", state["guard"]), mono_ns=mono_ns)

    def _next(self) -> None:
        self._from_wh = self._to_wh
        self._advance_wh = ()
        self._flags.clear()

    def _registers_of(self, reading: Reading) -> tuple[int, ...] | None:
        values, places = reading.values, self._places
        if not self.is_credited or not places or places[-1] >= len(values):
            return None
        found = [values[place] for place in places]
        # Written so that NaN, which compares false with everything, is passed over as well.
        if not all(0 <= value < self._guard.modulus_wh for value in found):
            return None
        return tuple(map(int, found))

    def _count(self, advance_wh: tuple[int, ...], registers_wh: tuple[int, ...]) -> None:
        self._advance_wh = _sum(self._advance_wh or (0,) * len(advance_wh), advance_wh)
        self._to_wh = registers_wh


def _sum(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _part(left_wh: Sequence[int], share_wh: int) -> tuple[int, ...]:
    """How much of each register's advance a share of all takes, the first registers first."""
    taken: list[int] = []
    for wh in left_wh:
        part_wh = min(wh, share_wh)
        share_wh -= part_wh
        taken.append(part_wh)
    return tuple(taken)


def _registers(value: object) -> tuple[int, ...] | None:
    return None if value is None else tuple(cast("Sequence[int]", value))
