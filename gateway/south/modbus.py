"""Modbus requests and what may answer them. The only file that imports pymodbus.

pymodbus encodes the requests. Replies are checked here, byte by byte: its decoder takes a reply
with another function or fewer registers for good, and its framer waits for ever for a frame whose
protocol identifier is wrong or whose length is absurd.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from pymodbus.pdu import ModbusPDU, ReadDeviceInformationRequest
from pymodbus.pdu import ReadHoldingRegistersRequest as ReadHolding
from pymodbus.pdu.register_message import WriteMultipleRegistersRequest as WriteMany
from pymodbus.pdu.register_message import WriteSingleRegisterRequest

from gateway.core.errors import MeterExceptionError, MeterProtocolError

# Modbus Messaging on TCP/IP V1.0b, 3.1.3: transaction, protocol, length of the rest, unit.
HEAD: Final = struct.Struct(">HHHB")
PDU_MAX: Final = 253
_EXCEPTION_FLAG: Final = 0x80
_EXCEPTION_BYTES: Final = 2
_IDENTIFICATION_BYTES_MIN: Final = 7
_WRITE_MANY_REPLY_BYTES: Final = 5  # function, address, count
_MEI_DEVICE_IDENTIFICATION: Final = 0x0E
TRANSACTIONS: Final = 0x10000

EXCEPTIONS: Final[Mapping[int, str]] = {
    0x01: "function not supported",
    0x02: "no such register",
    0x03: "value or count not allowed",
    0x04: "device failure",
    0x06: "device busy",
    0xF0: "write protection is on: release it at the meter",
}


class _Kind(Enum):
    READ = "read"
    WRITE = "write"
    WRITE_MANY = "write_many"
    IDENTIFICATION = "identification"


@dataclass(frozen=True, slots=True)
class Request:
    """A request PDU and what its reply must look like.

    `head` are the bytes in front of the registers in the good reply to a read, none for others.
    """

    pdu: bytes
    kind: _Kind
    reply_bytes: int
    head: bytes = b""

    def allows(self, reply_bytes: int) -> bool:
        """Whether a reply PDU of this many bytes can answer the request."""
        if reply_bytes == self.reply_bytes:
            return True
        if self.kind is _Kind.IDENTIFICATION:
            return reply_bytes == _EXCEPTION_BYTES or reply_bytes >= _IDENTIFICATION_BYTES_MIN
        return reply_bytes == _EXCEPTION_BYTES


class DeviceObjects(NamedTuple):
    """One answer of function 0x2B: objects by number, and where to go on (None: complete)."""

    objects: dict[int, bytes]
    next_object: int | None


def read_request(address: int, count: int) -> Request:
    """Read `count` (1 … 125) registers from `address`, function 3."""
    pdu = _encoded(ReadHolding(address=address, count=count))
    return Request(pdu, _Kind.READ, 2 + 2 * count, bytes((pdu[0], 2 * count)))


def write_request(address: int, value: int) -> Request:
    """Write one register, function 6: the form that commands take (PAC3220 EM p138)."""
    pdu = _encoded(WriteSingleRegisterRequest(address=address, registers=[value]))
    return Request(pdu, _Kind.WRITE, len(pdu))


def setting_request(address: int, registers: Sequence[int]) -> Request:
    """Write adjacent registers, function 16: the form that settings take (PAC3220 EM p111)."""
    pdu = _encoded(WriteMany(address=address, registers=list(registers)))
    return Request(pdu, _Kind.WRITE_MANY, _WRITE_MANY_REPLY_BYTES)


def identification_request(first_object: int = 0) -> Request:
    """Read the basic device identification, function 0x2B / 0x0E, from `first_object` on."""
    pdu = _encoded(ReadDeviceInformationRequest(read_code=1, object_id=first_object))
    return Request(pdu, _Kind.IDENTIFICATION, 0)


def device_objects(payload: bytes) -> DeviceObjects:
    """Take apart the object list of a checked identification reply."""
    more, following, count = payload[0], payload[1], payload[2]
    objects: dict[int, bytes] = {}
    at = 3
    for _ in range(count):
        size = payload[at + 1]
        objects[payload[at]] = payload[at + 2 : at + 2 + size]
        at += 2 + size
    return DeviceObjects(objects, following if more else None)


def check_reply(request: Request, pdu: bytes) -> bytes:
    """The payload of a reply PDU that fits the request.

    Raises MeterExceptionError for a Modbus exception and MeterProtocolError for everything that is
    neither the exception nor exactly the reply that was asked for.
    """
    # The common case in one look: function, byte count and length are those of the read.
    if request.head and len(pdu) == request.reply_bytes and pdu.startswith(request.head):
        return pdu[2:]
    function = request.pdu[0]
    if not pdu:
        raise MeterProtocolError("empty reply")
    if pdu[0] == function | _EXCEPTION_FLAG:
        if len(pdu) != _EXCEPTION_BYTES:
            raise MeterProtocolError(f"exception reply of {len(pdu)} bytes")
        raise MeterExceptionError(
            f"function {function}: exception 0x{pdu[1]:02X} ({_meaning(pdu[1])})", pdu[1]
        )
    if pdu[0] != function:
        raise MeterProtocolError(f"function {pdu[0]} in reply to {function}")
    match request.kind:
        case _Kind.READ:
            said = f"{len(pdu) - 2} register bytes, announced as {pdu[1:2].hex()}"
            raise MeterProtocolError(f"{said}, {request.reply_bytes - 2} expected")
        case _Kind.WRITE:
            if pdu != request.pdu:
                raise MeterProtocolError(f"write echoed as {pdu.hex()}, sent {request.pdu.hex()}")
            return pdu[1:]
        case _Kind.WRITE_MANY:
            if pdu != request.pdu[:_WRITE_MANY_REPLY_BYTES]:
                raise MeterProtocolError(f"write answered as {pdu.hex()}")
            return pdu[1:]
        case _Kind.IDENTIFICATION:
            _check_identification(request.pdu, pdu)
            return pdu[4:]


def _check_identification(asked: bytes, pdu: bytes) -> None:
    if len(pdu) < _IDENTIFICATION_BYTES_MIN or pdu[1] != _MEI_DEVICE_IDENTIFICATION:
        raise MeterProtocolError("no device identification")
    if pdu[2] != asked[2]:
        raise MeterProtocolError(f"identification code {pdu[2]}, asked for {asked[2]}")
    at = _IDENTIFICATION_BYTES_MIN
    for _ in range(pdu[6]):
        if at + 2 > len(pdu):
            raise MeterProtocolError("identification objects cut short")
        at += 2 + pdu[at + 1]
    if at != len(pdu):
        raise MeterProtocolError("identification objects do not fill their frame")


def _encoded(pdu: ModbusPDU) -> bytes:
    return bytes((pdu.function_code,)) + pdu.encode()


def _meaning(code: int) -> str:
    """A Modbus exception in words. Source: PAC3220 EM p112, Modbus specification section 7."""
    return EXCEPTIONS.get(code, "no meaning known")
