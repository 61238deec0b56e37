"""Who answers Modbus TCP at an address that nobody described: one short connection each."""

import re
from dataclasses import dataclass
from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import MeterError, MeterUnreachableError
from gateway.south.identity import Identity, read_names, read_order, require
from gateway.south.link import open_link
from gateway.south.models import meter_model, model_names
from gateway.south.pacing import RoundTrips
from gateway.south.registers import MeterModel

# A meter on a LAN connects within milliseconds and answers within a few tens of them.
CONNECT_S: Final = 0.5
REPLY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A device that took a connection. `model` is the meter model that it names itself as, if any.

    `problem` says why it could not be asked; then `identity` is empty.
    """

    host: str
    port: int
    identity: Identity
    model: str | None = None
    problem: str = ""


async def find_device(
    host: str,
    port: int,
    clock: Clock,
    *,
    unit: int = 1,
    connect_s: float = CONNECT_S,
    reply_s: float = REPLY_S,
) -> FoundDevice | None:
    """Ask the device at an address who it is; None where nobody takes the connection.

    Opens one connection and returns after it was closed: a PAC3220 holds three (EM p99).
    """
    try:
        link = await open_link(
            host,
            port,
            unit=unit,
            pipeline=1,
            round_trips=RoundTrips(reply_s),
            clock=clock,
            timeout_s=connect_s,
        )
    except MeterUnreachableError:
        return None
    try:
        identity = await read_names(link)
        model = _maker_of(identity)
        if model is not None:  # no foreign device is asked for a register
            identity = await read_order(link, model.identity, identity)
    except MeterError as error:
        return FoundDevice(host, port, Identity(), None, f"{error.code}: {error}")
    finally:
        link.close()
        await link.wait_closed()
    return FoundDevice(host, port, identity, model_of(identity))


def model_of(identity: Identity) -> str | None:
    """The meter model that an identity fits, None for a device that is no meter known here."""
    for name in model_names():
        try:
            require(identity, meter_model(name), None)
        except MeterError:
            continue
        return name
    return None


def _maker_of(identity: Identity) -> MeterModel | None:
    """A model of the maker that names itself: I&M0 lies at the same place in all of a maker's."""
    for model in map(meter_model, model_names()):
        if re.search(model.identity.manufacturer_pattern, identity.manufacturer, re.IGNORECASE):
            return model
    return None
