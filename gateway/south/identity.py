"""Who answers at an address: function 0x2B and the I&M0 block."""

import re
import struct
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import MeterExceptionError, MeterIdentityError, MeterProtocolError
from gateway.south.link import ModbusLink
from gateway.south.modbus import device_objects, identification_request, read_request
from gateway.south.registers import IdentitySpec, MeterModel

# Manufacturer, order number, serial number, hardware, firmware letter and three numbers, then five
# counters and profile words that are not used here (PAC2200 L1V30415167B-03 p115; 27 registers).
_IM0: Final = struct.Struct(">H20s16sHcBBB10x")
_OBJECT_MANUFACTURER: Final = 0
_OBJECT_DEVICE: Final = 1
_OBJECT_FIRMWARE: Final = 2
# Three short texts fit one frame; a device that still has more after four never ends.
_FRAMES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device says about itself; empty where it says nothing.

    `manufacturer`, `device_name` and `firmware` come from function 0x2B, the rest from I&M0.
    """

    manufacturer: str = ""
    device_name: str = ""
    firmware: str = ""
    vendor_id: int | None = None
    order_number: str = ""
    serial_number: str = ""
    hardware_revision: int | None = None
    software_revision: str = ""


async def read_identity(link: ModbusLink, spec: IdentitySpec) -> Identity:
    """Ask a device who it is. A part that it refuses with an exception stays empty.

    Raises MeterProtocolError, MeterTimeoutError or MeterUnreachableError.
    """
    return await read_order(link, spec, await read_names(link))


async def read_names(link: ModbusLink) -> Identity:
    """What function 0x2B tells; empty where the device refuses it. Raises as `read_identity`."""
    objects = await _read_objects(link)
    texts = {number: _text(raw) for number, raw in objects.items()}
    return Identity(
        manufacturer=texts.get(_OBJECT_MANUFACTURER, ""),
        device_name=texts.get(_OBJECT_DEVICE, ""),
        firmware=texts.get(_OBJECT_FIRMWARE, ""),
    )


async def read_order(link: ModbusLink, spec: IdentitySpec, named: Identity) -> Identity:
    """`named` with the order and serial number of I&M0. Raises as `read_identity`."""
    try:
        replies = await link.exchange((read_request(spec.im0_address, spec.im0_count),))
    except MeterExceptionError:
        return named
    vendor_id, order, serial, hardware, letter, *numbers = _IM0.unpack(replies[0].payload)
    return Identity(
        manufacturer=named.manufacturer,
        device_name=named.device_name,
        firmware=named.firmware,
        vendor_id=vendor_id,
        order_number=_text(order),
        serial_number=_text(serial),
        hardware_revision=hardware,
        software_revision=_text(letter) + ".".join(map(str, numbers)),
    )


def require(identity: Identity, model: MeterModel, serial_number: str | None) -> None:
    """Accept a device of the model and, where one is given, of the serial number.

    Raises MeterIdentityError with what answered and what was expected. A device that names itself
    in no way is not accepted: its registers could mean anything.
    """
    spec = model.identity
    claims: list[tuple[str, bool]] = []
    if identity.manufacturer or identity.device_name:
        claims.append(
            (identity.manufacturer, _fits(spec.manufacturer_pattern, identity.manufacturer))
        )
        claims.append((identity.device_name, _fits(spec.device_pattern, identity.device_name)))
    if identity.order_number:
        claims.append((f"vendor {identity.vendor_id}", identity.vendor_id == spec.vendor_id))
        claims.append((identity.order_number, _fits(spec.order_pattern, identity.order_number)))
    if not claims:
        raise MeterIdentityError(f"the device does not say what it is; {model.title} expected")
    wrong = [repr(claim) for claim, fits in claims if not fits]
    if wrong:
        raise MeterIdentityError(f"{', '.join(wrong)} answers; {model.title} expected")
    if serial_number is not None and identity.serial_number != serial_number:
        raise MeterIdentityError(
            f"serial number {identity.serial_number!r} answers; {serial_number!r} expected: "
            "a replaced meter needs the replacement operation"
        )


async def _read_objects(link: ModbusLink) -> dict[int, bytes]:
    objects: dict[int, bytes] = {}
    following: int | None = 0
    for _ in range(_FRAMES_MAX):
        if following is None:
            return objects
        try:
            replies = await link.exchange((identification_request(following),))
        except MeterExceptionError:
            return objects
        part = device_objects(replies[0].payload)
        objects.update(part.objects)
        following = part.next_object
    if following is not None:
        raise MeterProtocolError(f"identification goes on after {_FRAMES_MAX} frames")
    return objects


def _text(raw: bytes) -> str:
    """Printable ASCII without padding: it ends up in messages and on screens."""
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else " " for byte in raw)
    return shown.strip()


def _fits(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None
