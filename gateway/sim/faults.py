"""What can be made to go wrong with one simulated meter, as data.

A fault stays until it is cleared or used up. `rate` makes it strike a share of the replies only,
`count` that many replies, `function` only replies to one Modbus function.
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.core.errors import RefusedError
from gateway.sim.loads import Random


class FaultKind(StrEnum):
    """The faults by name; FAULTS says what each does."""

    REFUSED = "refused"
    BLACK_HOLE = "black_hole"
    SILENT = "silent"
    CLOSE_MID_REPLY = "close_mid_reply"
    DROP_OUT = "drop_out"
    GARBAGE = "garbage"
    TRUNCATED = "truncated"
    BYTE_BY_BYTE = "byte_by_byte"
    WRONG_TRANSACTION = "wrong_transaction"
    WRONG_UNIT = "wrong_unit"
    WRONG_FUNCTION = "wrong_function"
    FEWER_REGISTERS = "fewer_registers"
    HUGE_LENGTH = "huge_length"
    DUPLICATE = "duplicate"
    LATE_REPLY = "late_reply"
    BUSY = "busy"
    NAN = "nan"
    NAN_ENERGY = "nan_energy"
    ENERGY_BACKWARDS = "energy_backwards"
    ENERGY_JUMP = "energy_jump"
    IDENTITY = "identity"
    WORD_ORDER = "word_order"
    SWITCH_IGNORED = "switch_ignored"
    REMOTE_TIMEOUT_IGNORED = "remote_timeout_ignored"
    MANUAL_OVERRIDE = "manual_override"
    WRITE_PROTECTED = "write_protected"
    PASSWORD = "password"  # noqa: S105 -- the name of a fault
    SUBNET_FILTER = "subnet_filter"
    CLOCK_OFFSET = "clock_offset"
    CT_REVERSED = "ct_reversed"
    CT_RATIO = "ct_ratio"
    PHASES_EXCHANGED = "phases_exchanged"
    CONTACTOR_WELDED = "contactor_welded"
    CONTACTOR_BOUNCES = "contactor_bounces"
    CONTACTOR_BYPASSED = "contactor_bypassed"
    AUXILIARY_BEHIND_CONTACTOR = "auxiliary_behind_contactor"
    TAPPED = "tapped"
    ROOF = "roof"


class Layer(StrEnum):
    """Where a fault bites: reaching the meter, the bytes of a reply, the meter, its contactor."""

    LINK = "link"
    WIRE = "wire"
    METER = "meter"
    CONTACTOR = "contactor"


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What one kind does. `amount` is the default of its number, `unit` what the number means."""

    layer: Layer
    meaning: str
    amount: float = 0.0
    unit: str = ""


FAULTS: dict[FaultKind, FaultRule] = {
    FaultKind.REFUSED: FaultRule(Layer.LINK, "connections are reset, new ones refused"),
    FaultKind.BLACK_HOLE: FaultRule(Layer.LINK, "nothing answers, not even to a new connection"),
    FaultKind.SILENT: FaultRule(Layer.WIRE, "connections are accepted, requests never answered"),
    FaultKind.CLOSE_MID_REPLY: FaultRule(Layer.WIRE, "half a reply, then the connection closes"),
    FaultKind.DROP_OUT: FaultRule(Layer.WIRE, "the connection is reset instead of a reply"),
    FaultKind.GARBAGE: FaultRule(Layer.WIRE, "random bytes instead of a reply"),
    FaultKind.TRUNCATED: FaultRule(
        Layer.WIRE, "the last bytes of the reply never come", 2, "bytes"
    ),
    FaultKind.BYTE_BY_BYTE: FaultRule(
        Layer.WIRE, "the reply comes one byte at a time", 0.001, "s between bytes"
    ),
    FaultKind.WRONG_TRANSACTION: FaultRule(Layer.WIRE, "the transaction id is another one"),
    FaultKind.WRONG_UNIT: FaultRule(Layer.WIRE, "the unit id is another one"),
    FaultKind.WRONG_FUNCTION: FaultRule(Layer.WIRE, "a well-formed reply with another function"),
    FaultKind.FEWER_REGISTERS: FaultRule(
        Layer.WIRE, "a well-formed reply with fewer registers than asked", 1, "registers less"
    ),
    FaultKind.HUGE_LENGTH: FaultRule(Layer.WIRE, "the header announces 65,535 bytes"),
    FaultKind.DUPLICATE: FaultRule(Layer.WIRE, "the reply comes twice"),
    FaultKind.LATE_REPLY: FaultRule(Layer.WIRE, "the reply comes late", 3.0, "s"),
    FaultKind.BUSY: FaultRule(Layer.WIRE, "exception 06, device busy"),
    FaultKind.NAN: FaultRule(Layer.METER, "all measured float32 values read NaN"),
    FaultKind.NAN_ENERGY: FaultRule(Layer.METER, "all energy counters read NaN"),
    FaultKind.ENERGY_BACKWARDS: FaultRule(
        Layer.METER, "active import T1 reads less than before", 1_000, "Wh"
    ),
    FaultKind.ENERGY_JUMP: FaultRule(
        Layer.METER, "active import T1 reads more than was used", 1_000_000, "Wh"
    ),
    FaultKind.IDENTITY: FaultRule(Layer.METER, "identifies itself as a PAC2200"),
    FaultKind.WORD_ORDER: FaultRule(Layer.METER, "registers of a value come low word first"),
    FaultKind.SWITCH_IGNORED: FaultRule(Layer.METER, "switching is acknowledged, nothing moves"),
    FaultKind.REMOTE_TIMEOUT_IGNORED: FaultRule(
        Layer.METER, "outputs do not fall off after their remote timeout"
    ),
    FaultKind.MANUAL_OVERRIDE: FaultRule(
        Layer.METER, "the output is held by hand and does not follow", 1, "0 off, 1 on"
    ),
    FaultKind.WRITE_PROTECTED: FaultRule(Layer.METER, "hardware write protection: exception 0xF0"),
    FaultKind.PASSWORD: FaultRule(Layer.METER, "password protection: writes answer 0xF0"),
    FaultKind.SUBNET_FILTER: FaultRule(
        Layer.METER, "writes from outside the meter's subnet answer 0xF0"
    ),
    FaultKind.CLOCK_OFFSET: FaultRule(
        Layer.METER, "the meter's own clock is wrong", 7_200, "s ahead"
    ),
    FaultKind.CT_REVERSED: FaultRule(
        Layer.METER, "a current transformer is the wrong way round", 1, "phase (0: all three)"
    ),
    FaultKind.CT_RATIO: FaultRule(
        Layer.METER, "currents, powers and energy count with a wrong ratio", 10, "times too much"
    ),
    FaultKind.PHASES_EXCHANGED: FaultRule(
        Layer.METER, "the currents of the two other phases are exchanged", 1, "phase left in place"
    ),
    FaultKind.CONTACTOR_WELDED: FaultRule(Layer.CONTACTOR, "closed contacts do not open"),
    FaultKind.CONTACTOR_BOUNCES: FaultRule(
        Layer.CONTACTOR, "contacts bounce at each movement", 4, "times"
    ),
    FaultKind.CONTACTOR_BYPASSED: FaultRule(
        Layer.CONTACTOR, "a bridge carries the load past the open contacts"
    ),
    FaultKind.AUXILIARY_BEHIND_CONTACTOR: FaultRule(
        Layer.CONTACTOR, "the meter's own supply comes from behind its contactor"
    ),
    FaultKind.TAPPED: FaultRule(
        Layer.METER, "a load hangs before the meter, seen by the feeder's check meter", 500, "W"
    ),
    FaultKind.ROOF: FaultRule(
        Layer.METER,
        "a roof behind the contactor feeds in; it counts as export, beside what the load takes",
        2_000,
        "W",
    ),
}


@dataclass(slots=True)
class Fault:
    """A fault in force. `left` is how many replies it still strikes, None without end."""

    kind: FaultKind
    amount: float
    rate: float = 1.0
    left: int | None = None
    function: int | None = None


def fault_named(
    name: str,
    *,
    amount: float | None = None,
    rate: float = 1.0,
    count: int | None = None,
    function: int | None = None,
) -> Fault:
    """A fault from words and numbers of a person.

    Raises RefusedError: UNKNOWN_FAULT for another name, FAULT_ARGUMENT for a number outside its
    range, or for rate, count and function with a fault that does not strike single replies.
    """
    try:
        kind = FaultKind(name)
    except ValueError:
        known = ", ".join(FaultKind)
        raise RefusedError("UNKNOWN_FAULT", f"no fault {name!r}; known: {known}", "kind") from None
    rule = FAULTS[kind]
    if not 0.0 < rate <= 1.0:
        raise RefusedError("FAULT_ARGUMENT", "rate must be above 0 and at most 1", "rate")
    if count is not None and count < 1:
        raise RefusedError("FAULT_ARGUMENT", "count must be 1 or more", "count")
    if amount is not None and not 0.0 <= amount <= 1e12:
        raise RefusedError("FAULT_ARGUMENT", "amount must be 0 to 1e12", "amount")
    if rule.layer is not Layer.WIRE and (rate < 1.0 or count is not None or function is not None):
        message = f"rate, count and function go with faults on the wire, {name} is none"
        raise RefusedError("FAULT_ARGUMENT", message, "kind")
    return Fault(kind, rule.amount if amount is None else amount, rate, count, function)


class FaultSet:
    """The faults in force at one meter, at most one of each kind."""

    __slots__ = ("_active", "on_wire")

    def __init__(self) -> None:
        self._active: dict[FaultKind, Fault] = {}
        self.on_wire = False

    def __contains__(self, kind: FaultKind) -> bool:
        """Whether this kind is in force."""
        return kind in self._active

    def add(self, fault: Fault) -> None:
        """Put a fault in force, in place of one of the same kind."""
        self._active[fault.kind] = fault
        self._note_wire()

    def clear(self, kind: FaultKind | None = None) -> None:
        """End one fault, or all; ending what is not in force changes nothing."""
        if kind is None:
            self._active.clear()
        else:
            self._active.pop(kind, None)
        self._note_wire()

    def names(self) -> tuple[str, ...]:
        """The kinds in force, in the order they came."""
        return tuple(self._active)

    def amount(self, kind: FaultKind) -> float:
        """The number of a fault in force; 0 where it is not."""
        fault = self._active.get(kind)
        return fault.amount if fault is not None else 0.0

    def strike(self, function: int, random: Random) -> Fault | None:
        """The fault that spoils the reply to a request of this function, counting it.

        With several on the wire the oldest that strikes wins.
        """
        for fault in list(self._active.values()):
            if FAULTS[fault.kind].layer is not Layer.WIRE:
                continue
            if fault.function not in (None, function):
                continue
            if fault.rate < 1.0 and random.random() >= fault.rate:
                continue
            if fault.left is not None:
                fault.left -= 1
                if fault.left == 0:
                    self.clear(fault.kind)
            return fault
        return None

    def _note_wire(self) -> None:
        """Keep the question of the hot path cheap."""
        self.on_wire = any(FAULTS[kind].layer is Layer.WIRE for kind in self._active)
