"""The register guard: which advance of a meter's cumulative registers is energy to be charged.

A meter's counters are no proof: they fall back after a power cut, wrap, are reset or preset by
hand, and a bad reply can show anything. The guard settles an advance that the installation could
have taken, asks again about a drop, and holds everything else for a person (domain.md section 3;
the first rule that fits wins).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from gateway.core.errors import RefusedError

NS_PER_S: Final = 10**9
NS_PER_H: Final = 3_600 * NS_PER_S
TOTAL_TOLERANCE_WH: Final = 2  # T1, T2 and the total are floored one by one
MAX_READ_AGAIN: Final = 3  # a meter that keeps lying is asked at the usual pace
NEAR_MODULUS: Final = 10  # "near" is the last or first tenth of the counter's range


class VerdictKind(StrEnum):
    """What a reading of the registers turned out to be."""

    BASELINE = "baseline"
    DUPLICATE = "duplicate"
    SETTLE = "settle"
    ROLLOVER = "rollover"
    REGRESSION = "regression"
    RESET = "reset"
    RECHECK = "recheck"
    QUARANTINED = "quarantined"
    HELD = "held"


class GuardEvent(StrEnum):
    """What a person should hear about; each is told once, when it begins."""

    ROLLOVER = "ROLLOVER"
    REGISTER_REGRESSION = "REGISTER_REGRESSION"
    METER_RESET = "METER_RESET"
    BAD_READ_QUARANTINED = "BAD_READ_QUARANTINED"
    IMPLAUSIBLE_ENERGY = "IMPLAUSIBLE_ENERGY"
    REGISTER_HELD = "REGISTER_HELD"
    TOTAL_MISMATCH = "TOTAL_MISMATCH"


_SETTLING: Final = frozenset(
    {
        VerdictKind.BASELINE,
        VerdictKind.SETTLE,
        VerdictKind.ROLLOVER,
        VerdictKind.REGRESSION,
        VerdictKind.RESET,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one reading. `advance_wh` is the energy to charge, per register."""

    kind: VerdictKind
    advance_wh: tuple[int, ...]
    events: tuple[str, ...] = ()
    read_again: bool = False

    @property
    def settles(self) -> bool:
        """Whether the reading is good: the registers are now the base for the next one."""
        return self.kind in _SETTLING


@dataclass(frozen=True, slots=True)
class _Seen:
    """Registers, when they had arrived and when they were asked for: taken in between.

    `device` is whose registers they are; None: of whichever comes next.
    """

    registers_wh: tuple[int, ...]
    mono_ns: int
    asked_ns: int
    device: str | None


class RegisterGuard:
    """State of one meter's import registers (PAC3220: T1, T2), in whole Wh.

    `p_max_w` is the most the point can take; `refresh_s` how long the meter keeps showing the same
    registers; `nvm_interval_s` how often it saves them (what a power cut can take back). With
    `folds` it goes on from its resets by itself: a counter near zero is none.
    `device` is whose registers come, where devices take turns at a point: no counter goes on from
    another device's.
    """

    def __init__(
        self,
        *,
        p_max_w: int,
        modulus_wh: int = 10**12,
        refresh_s: float = 0.2,
        nvm_interval_s: int = 300,
        folds: bool = False,
    ) -> None:
        if p_max_w <= 0 or modulus_wh <= 0:
            raise ValueError(f"p_max {p_max_w} W and modulus {modulus_wh} Wh must be positive")
        self._p_max_w = p_max_w
        self._modulus_wh = modulus_wh
        self._refresh_ns = round(refresh_s * NS_PER_S)
        self._saved_wh = p_max_w * nvm_interval_s // 3_600
        self._folds = folds
        self.device = ""
        self._base: _Seen | None = None
        self._sequence = -1
        self._doubt: _Seen | None = None
        self._rechecks = 0
        self._disturbed = False
        self._latch: VerdictKind | None = None
        self._held: _Seen | None = None
        # The base is of before devices were told apart: it is of the one that is read now.
        self._is_older = False

    @property
    def modulus_wh(self) -> int:
        """Where its registers begin anew."""
        return self._modulus_wh

    @property
    def registers_wh(self) -> tuple[int, ...] | None:
        """The last good registers, up to which energy is charged; None before the first."""
        return self._base.registers_wh if self._base else None

    @property
    def held(self) -> bool:
        """Whether energy waits for a person's decision (`release`)."""
        return self._latch is not None

    @property
    def is_own(self) -> bool:
        """Whether the last good registers are of the device that is read now, and none wait."""
        if self._latch is not None or self._base is None:
            return False
        return self._is_older or self._base.device == self.device

    @property
    def owner(self) -> str | None:
        """The device of the last good registers; None before the first and after an exchange."""
        return self._base.device if self._base else None

    @property
    def held_wh(self) -> tuple[int, ...]:
        """Energy that waits, per register; negative where a register fell."""
        if self._base is None or self._held is None:
            return ()
        return _difference(self._held.registers_wh, self._base.registers_wh)

    def allowed_wh(self, from_mono_ns: int, to_mono_ns: int) -> int:
        """The most that can have flowed between two reads, all registers together."""
        elapsed_ns = max(0, to_mono_ns - from_mono_ns) + self._refresh_ns
        return self._p_max_w * elapsed_ns * 11 // (10 * NS_PER_H) + 1

    def check(
        self,
        sequence: int,
        mono_ns: int,
        energy_wh: Sequence[int],
        *,
        asked_ns: int | None = None,
        restarted: bool = False,
        communication_lost: bool = False,
        total_wh: int | None = None,
    ) -> Verdict:
        """Judge one reading.

        `sequence` and `mono_ns` order the readings; no wall clock is asked. Registers that were
        asked for at `asked_ns` may be as old as that: of a reply that came late, the time to the
        next reading counts from there. `restarted` and
        `communication_lost` say that the meter may have been without power since the last good
        reading. `total_wh` is the meter's own total register where it has one.
        """
        asked_ns = mono_ns if asked_ns is None else asked_ns
        seen = _Seen(tuple(energy_wh), mono_ns, asked_ns, self.device)
        nothing = (0,) * len(seen.registers_wh)
        if sequence <= self._sequence:
            return Verdict(VerdictKind.DUPLICATE, nothing)
        self._check_range(seen.registers_wh)
        self._sequence = sequence
        self._disturbed = self._disturbed or restarted or communication_lost
        if self._latch is not None:
            self._follow(seen)
            return Verdict(self._latch, nothing)
        if self._base is not None and self._base.device not in (None, self.device):
            return self._hold(seen, VerdictKind.HELD, (GuardEvent.REGISTER_HELD,))
        if total_wh is not None and not self._totals(seen.registers_wh, total_wh):
            return self._recheck(nothing, GuardEvent.TOTAL_MISMATCH)
        return self._judge(seen, nothing)

    def release(self, *, accept: bool) -> tuple[int, ...]:
        """End a hold by a person's decision; the Wh to charge, per register.

        With `accept` the held advance is charged (a fall counts as nothing), else nothing is;
        both ways the registers last seen become the base. Raises RefusedError NOTHING_HELD.
        """
        if self._latch is None or self._held is None or self._base is None:
            raise RefusedError("NOTHING_HELD", "this meter holds no energy for a decision")
        advance_wh = tuple(max(0, wh) if accept else 0 for wh in self.held_wh)
        self._rebase(self._held)
        return advance_wh

    def replace(self, closing_wh: Sequence[int], opening_wh: Sequence[int]) -> tuple[int, ...]:
        """Go on with another device; the Wh that the old one still has to be charged for.

        `closing_wh` are the old device's last registers, `opening_wh` the new one's first. Time
        still counts from the last good reading. An exchange answers an open hold. Raises
        RefusedError: NO_BASELINE, REPLACEMENT_REGISTERS.
        """
        if self._base is None:
            raise RefusedError("NO_BASELINE", "the old meter was never read")
        closing, opening = tuple(closing_wh), tuple(opening_wh)
        if not len(closing) == len(opening) == len(self._base.registers_wh):
            raise RefusedError(
                "REPLACEMENT_REGISTERS",
                f"give {len(self._base.registers_wh)} closing and opening registers",
            )
        if not all(0 <= wh < self._modulus_wh for wh in (*closing, *opening)):
            raise RefusedError(
                "REPLACEMENT_REGISTERS", f"registers lie between 0 and {self._modulus_wh} Wh"
            )
        advance_wh = _difference(closing, self._base.registers_wh)
        if min(advance_wh) < 0:
            raise RefusedError(
                "REPLACEMENT_REGISTERS",
                f"closing {list(closing)} is below the last good {list(self._base.registers_wh)}",
                "closing_wh",
            )
        # Of the one that waits, where another did; else whose they are shows the next reading.
        device = None
        if self._held is not None and self._held.device != self._base.device:
            device = self._held.device
        self._rebase(_Seen(opening, self._base.mono_ns, self._base.asked_ns, device))
        return advance_wh

    def disturbed(self) -> None:
        """The meter may have been without power since the last good reading."""
        self._disturbed = True

    def read_from(self, device: str) -> None:
        """Registers are this device's from now on; older ones, of no known device, were the one's
        before it."""
        if self._is_older and self._base is not None and self.device not in ("", device):
            self._base, self._is_older = replace(self._base, device=self.device), False
        self.device = device

    def disown(self) -> None:
        """The device of the last good registers counts for another point from now on.

        Should it come back, it is another device.
        """
        if self._base is not None:
            self._base = replace(self._base, device="")
            self._is_older = False

    def snapshot(self) -> dict[str, object]:
        """State as plain JSON values. Monotonic times hold for this boot only."""
        return {
            "sequence": self._sequence,
            "mono_ns": self._base.mono_ns if self._base else 0,
            "late_ns": self._base.mono_ns - self._base.asked_ns if self._base else 0,
            "registers_wh": list(self._base.registers_wh) if self._base else None,
            **({} if self._is_older else {"device": self.owner}),
            "disturbed": self._disturbed,
            "latch": self._latch.value if self._latch else None,
            "held_wh": list(self._held.registers_wh) if self._held else None,
            "held_mono_ns": self._held.mono_ns if self._held else 0,
            "held_device": self._held.device if self._held else None,
        }

    def restore(self, state: Mapping[str, object], *, mono_ns: int) -> None:
        """Go on from a snapshot; `mono_ns` is this boot's time of its last good reading.

        A drop that waited for its second read is asked anew. Raises RefusedError GUARD_STATE.
        """
        sequence, saved_mono_ns = state.get("sequence"), state.get("mono_ns")
        held_mono_ns, latch = state.get("held_mono_ns"), state.get("latch")
        registers_wh, held_wh = _registers(state, "registers_wh"), _registers(state, "held_wh")
        # An older state has none of these.
        late_ns, device, held_device = (
            state.get("late_ns", 0),
            state.get("device"),
            state.get("held_device"),
        )
        if not (
            isinstance(sequence, int)
            and isinstance(saved_mono_ns, int)
            and isinstance(held_mono_ns, int)
            and isinstance(late_ns, int)
            and late_ns >= 0
            and latch in (None, VerdictKind.QUARANTINED.value, VerdictKind.HELD.value)
            and (latch is None) == (held_wh is None)
            and (held_wh is None or registers_wh is not None)
            and isinstance(device, str | None)
            and isinstance(held_device, str | None)
        ):
            raise RefusedError("GUARD_STATE", f"saved register state is damaged: {dict(state)}")
        self._sequence = sequence
        if self.owner == "":
            # What was disowned since that state was kept stays so.
            device = ""
        self._base = None
        self._is_older = registers_wh is not None and device is None and "device" not in state
        if registers_wh is not None:
            self._base = _Seen(registers_wh, mono_ns, mono_ns - late_ns, device)
        self._disturbed = state.get("disturbed") is True
        self._latch = VerdictKind(latch) if latch is not None else None
        held_ns = held_mono_ns + mono_ns - saved_mono_ns
        self._held = None
        if held_wh is not None:
            self._held = _Seen(held_wh, held_ns, held_ns, held_device)
        self._doubt = None
        self._rechecks = 0

    # -- inside ----------------------------------------------------------------------------

    def _check_range(self, registers_wh: tuple[int, ...]) -> None:
        if not registers_wh or not all(0 <= wh < self._modulus_wh for wh in registers_wh):
            raise ValueError(f"registers {registers_wh} are outside 0..{self._modulus_wh} Wh")
        if self._base is not None and len(registers_wh) != len(self._base.registers_wh):
            raise ValueError(f"{len(registers_wh)} registers, not {len(self._base.registers_wh)}")

    def _totals(self, registers_wh: tuple[int, ...], total_wh: int) -> bool:
        apart_wh = (sum(registers_wh) - total_wh) % self._modulus_wh
        return min(apart_wh, self._modulus_wh - apart_wh) <= TOTAL_TOLERANCE_WH

    def _plausible(self, before: _Seen, after: _Seen) -> bool:
        advance_wh = _difference(after.registers_wh, before.registers_wh)
        allowed_wh = self.allowed_wh(before.asked_ns, after.mono_ns)
        return min(advance_wh) >= 0 and sum(advance_wh) <= allowed_wh

    def _judge(self, seen: _Seen, nothing: tuple[int, ...]) -> Verdict:
        """Rules 2 to 4: an advance, or a fall seen for the first time."""
        if self._base is None:
            return self._settle(seen, VerdictKind.BASELINE, nothing)
        advance_wh = _difference(seen.registers_wh, self._base.registers_wh)
        if min(advance_wh) < 0:
            if self._doubt is None or not self._plausible(self._doubt, seen):
                self._doubt = seen
                return self._recheck(nothing)
            return self._judge_drop(self._base, seen)
        events = (GuardEvent.BAD_READ_QUARANTINED,) if self._doubt else ()
        if sum(advance_wh) > self.allowed_wh(self._base.asked_ns, seen.mono_ns):
            return self._hold(
                seen, VerdictKind.QUARANTINED, (*events, GuardEvent.IMPLAUSIBLE_ENERGY)
            )
        return self._settle(seen, VerdictKind.SETTLE, advance_wh, events)

    def _judge_drop(self, base: _Seen, seen: _Seen) -> Verdict:
        """Rule 5: two reads in a row agree that a register fell."""
        allowed_wh = self.allowed_wh(base.asked_ns, seen.mono_ns)
        near_wh = self._modulus_wh // NEAR_MODULUS
        kind = VerdictKind.SETTLE
        events: list[GuardEvent] = []
        advance_wh: list[int] = []
        fallen: list[int] = []
        for index, (now_wh, last_wh) in enumerate(
            zip(seen.registers_wh, base.registers_wh, strict=True)
        ):
            advance_wh.append(max(0, now_wh - last_wh))
            to_wrap_wh = self._modulus_wh - last_wh
            if now_wh >= last_wh:
                continue
            if to_wrap_wh <= near_wh and now_wh + to_wrap_wh <= allowed_wh:
                kind = VerdictKind.ROLLOVER
                events.append(GuardEvent.ROLLOVER)
                advance_wh[index] = now_wh + to_wrap_wh
            else:
                fallen.append(index)
        if fallen:
            drop_wh = sum(base.registers_wh[i] - seen.registers_wh[i] for i in fallen)
            shown_wh = sum(seen.registers_wh[i] for i in fallen)
            if self._disturbed and drop_wh <= self._saved_wh:
                kind = VerdictKind.REGRESSION
                events.append(GuardEvent.REGISTER_REGRESSION)
            # Near zero is what can have flowed in one saving interval: more cannot be told from
            # a counter that was preset by hand.
            elif not self._folds and shown_wh <= min(self._saved_wh, allowed_wh):
                kind = VerdictKind.RESET
                events.append(GuardEvent.METER_RESET)
                for index in fallen:
                    advance_wh[index] = seen.registers_wh[index]
            else:
                return self._hold(seen, VerdictKind.HELD, (GuardEvent.REGISTER_HELD,))
        if sum(advance_wh) > allowed_wh:
            return self._hold(seen, VerdictKind.QUARANTINED, (GuardEvent.IMPLAUSIBLE_ENERGY,))
        return self._settle(seen, kind, tuple(advance_wh), tuple(dict.fromkeys(events)))

    def _recheck(self, nothing: tuple[int, ...], event: GuardEvent | None = None) -> Verdict:
        self._rechecks += 1
        told = (event,) if event is not None and self._rechecks == 2 else ()
        return Verdict(
            VerdictKind.RECHECK, nothing, told, read_again=self._rechecks <= MAX_READ_AGAIN
        )

    def _settle(
        self,
        seen: _Seen,
        kind: VerdictKind,
        advance_wh: tuple[int, ...],
        events: tuple[GuardEvent, ...] = (),
    ) -> Verdict:
        self._rebase(seen)
        return Verdict(kind, advance_wh, events)

    def _rebase(self, seen: _Seen) -> None:
        self._base = seen
        self._is_older = False
        self._doubt = None
        self._rechecks = 0
        self._disturbed = False
        self._latch = None
        self._held = None

    def _hold(self, seen: _Seen, kind: VerdictKind, events: tuple[GuardEvent, ...]) -> Verdict:
        """Latch: the base stays, so that waiting never makes a jump plausible."""
        self._latch = kind
        self._held = seen
        self._doubt = None
        return Verdict(kind, (0,) * len(seen.registers_wh), events)

    def _follow(self, seen: _Seen) -> None:
        """Keep up with the meter during a hold, by the same rule of two agreeing reads."""
        assert self._held is not None  # noqa: S101 - set with the latch
        if (
            seen.device != self._held.device
            or self._plausible(self._held, seen)
            or (self._doubt is not None and self._plausible(self._doubt, seen))
        ):
            self._held = seen
            self._doubt = None
        else:
            self._doubt = seen


def _difference(after: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(now_wh - last_wh for now_wh, last_wh in zip(after, before, strict=True))


def _registers(state: Mapping[str, object], name: str) -> tuple[int, ...] | None:
    value = state.get(name)
    if value is None:
        return None
    registers = value if isinstance(value, list | tuple) else ()
    if not registers or not all(isinstance(wh, int) and wh >= 0 for wh in registers):
        raise RefusedError("GUARD_STATE", f"saved {name} are damaged: {value!r}")
    return tuple(wh for wh in registers if isinstance(wh, int))
