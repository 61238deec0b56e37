"""How a reply leaves a faulty meter: which bytes, when, and what becomes of the connection."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from struct import Struct

from gateway.sim.faults import Fault, FaultKind
from gateway.sim.loads import Random

HEADER = Struct(">HHHB")  # transaction, protocol 0, bytes that follow, unit
HEADER_BYTES = HEADER.size
BUSY = 0x06
MIN_GARBAGE_BYTES = 8
EXCEPTION_BIT = 0x80
OTHER_FUNCTION = {0x03: 0x04, 0x04: 0x03, 0x06: 0x10, 0x10: 0x06}
REGISTER_READS = (0x03, 0x04)


class After(StrEnum):
    """What becomes of the connection once the bytes are out."""

    STAY = "stay"
    CLOSE = "close"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that go out `delay_s` after the reply was due."""

    payload: bytes
    delay_s: float = 0.0
    after: After = After.STAY


def frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """A PDU with its MBAP header."""
    return HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu


@dataclass(frozen=True, slots=True)
class Reply:
    """The honest reply to a request: its header's fields and the PDU."""

    transaction: int
    unit: int
    pdu: bytes

    def whole(self) -> bytes:
        """The frame a healthy meter sends."""
        return frame(self.transaction, self.unit, self.pdu)

    def is_register_read(self) -> bool:
        """Whether it carries registers (and is no exception)."""
        return self.pdu[0] in REGISTER_READS


def spoil(fault: Fault, reply: Reply, random: Random) -> tuple[Chunk, ...]:
    """What goes out in place of a reply. Empty: nothing ever does.

    A fault that has no meaning for this reply (fewer registers of a write's echo) leaves it whole.
    """
    return SPOILERS[fault.kind](fault, reply, random)


Spoiler = Callable[[Fault, Reply, Random], tuple[Chunk, ...]]


def _close_mid_reply(_: Fault, reply: Reply, __: Random) -> tuple[Chunk, ...]:
    whole = reply.whole()
    return (Chunk(whole[: len(whole) // 2], after=After.CLOSE),)


def _garbage(_: Fault, reply: Reply, random: Random) -> tuple[Chunk, ...]:
    return (Chunk(_noise(max(len(reply.whole()), MIN_GARBAGE_BYTES), random)),)


def _truncated(fault: Fault, reply: Reply, _: Random) -> tuple[Chunk, ...]:
    whole = reply.whole()
    lost = min(max(int(fault.amount), 1), len(whole))
    return (Chunk(whole[: len(whole) - lost]),)


def _byte_by_byte(fault: Fault, reply: Reply, _: Random) -> tuple[Chunk, ...]:
    whole = reply.whole()
    return tuple(
        Chunk(whole[place : place + 1], place * fault.amount) for place in range(len(whole))
    )


def _wrong_function(_: Fault, reply: Reply, __: Random) -> tuple[Chunk, ...]:
    other = OTHER_FUNCTION.get(reply.pdu[0], REGISTER_READS[0])
    return (Chunk(frame(reply.transaction, reply.unit, bytes((other,)) + reply.pdu[1:])),)


def _fewer_registers(fault: Fault, reply: Reply, _: Random) -> tuple[Chunk, ...]:
    if not reply.is_register_read():
        return (Chunk(reply.whole()),)
    left = max(0, reply.pdu[1] - 2 * max(int(fault.amount), 1))
    short = bytes((reply.pdu[0], left)) + reply.pdu[2 : 2 + left]
    return (Chunk(frame(reply.transaction, reply.unit, short)),)


def _huge_length(_: Fault, reply: Reply, __: Random) -> tuple[Chunk, ...]:
    return (Chunk(HEADER.pack(reply.transaction, 0, 0xFFFF, reply.unit) + reply.pdu),)


def _busy(_: Fault, reply: Reply, __: Random) -> tuple[Chunk, ...]:
    pdu = bytes((reply.pdu[0] | EXCEPTION_BIT, BUSY))
    return (Chunk(frame(reply.transaction, reply.unit, pdu)),)


SPOILERS: dict[FaultKind, Spoiler] = {
    FaultKind.SILENT: lambda *_: (),
    FaultKind.CLOSE_MID_REPLY: _close_mid_reply,
    FaultKind.DROP_OUT: lambda *_: (Chunk(b"", after=After.RESET),),
    FaultKind.GARBAGE: _garbage,
    FaultKind.TRUNCATED: _truncated,
    FaultKind.BYTE_BY_BYTE: _byte_by_byte,
    FaultKind.WRONG_TRANSACTION: lambda _, reply, __: (
        Chunk(frame((reply.transaction + 1) & 0xFFFF, reply.unit, reply.pdu)),
    ),
    FaultKind.WRONG_UNIT: lambda _, reply, __: (
        Chunk(frame(reply.transaction, (reply.unit + 1) & 0xFF, reply.pdu)),
    ),
    FaultKind.WRONG_FUNCTION: _wrong_function,
    FaultKind.FEWER_REGISTERS: _fewer_registers,
    FaultKind.HUGE_LENGTH: _huge_length,
    FaultKind.DUPLICATE: lambda _, reply, __: (Chunk(reply.whole()), Chunk(reply.whole())),
    FaultKind.LATE_REPLY: lambda fault, reply, _: (Chunk(reply.whole(), fault.amount),),
    FaultKind.BUSY: _busy,
}


def _noise(count: int, random: Random) -> bytes:
    """Random bytes; the protocol field is never 0, so that they cannot be a reply by chance."""
    noise = bytearray(int(random.random() * 256) for _ in range(count))
    noise[2] |= 0x01
    return bytes(noise)
