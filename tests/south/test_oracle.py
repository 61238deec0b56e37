"""Our client against pymodbus' own server: two implementations must agree on the wire."""

import math
import struct
from collections.abc import AsyncIterator

import pytest
from pymodbus.pdu.device import ModbusDeviceIdentification
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.app.clock import SystemClock
from gateway.core.reading import Lane
from gateway.south.meter import MeterClient, MeterEndpoint
from tests.south.south_peers import HOST, free_port, im0_block


@pytest.fixture
async def oracle() -> AsyncIterator[MeterClient]:
    """A client of a pymodbus server that holds a PAC3220's registers."""
    floats = [230.0 + place for place in range(37)]
    registers = [
        SimData(1, values=floats, datatype=DataType.FLOAT32),
        SimData(203, values=[0, 0x0800, 1, 2, 1, 99, 5, 6, 7, 8], datatype=DataType.UINT32),
        SimData(223, values=[1.5, math.nan, 0.25], datatype=DataType.FLOAT32),
        SimData(799, values=[1_790_000_000], datatype=DataType.UINT32),
        SimData(
            801,
            values=[123456.75, 9.5, *(float(place) for place in range(8))],
            datatype=DataType.FLOAT64,
        ),
        SimData(841, values=[100.0 + place for place in range(30)], datatype=DataType.FLOAT64),
        SimData(60007, values=[0, 0, 0], datatype=DataType.REGISTERS),
        SimData(64001, values=im0_block(), datatype=DataType.REGISTERS),
    ]
    identity = ModbusDeviceIdentification(  # type: ignore[no-untyped-call]
        info_name={
            "VendorName": "SIEMENS AG",
            "ProductCode": "SENTRON PAC3220",
            "MajorMinorRevision": "V3.2.1",
        }
    )
    port = free_port()
    server = ModbusTcpServer(
        SimDevice(id=1, simdata=registers), identity=identity, address=(HOST, port)
    )
    await server.serve_forever(background=True)
    # pymodbus' server takes one frame a segment, so nothing is pipelined here.
    endpoint = MeterEndpoint(meter_id="m", model="pac3220", host=HOST, port=port)
    client = MeterClient(endpoint, SystemClock())
    try:
        yield client
    finally:
        await client.close()
        await server.shutdown()  # type: ignore[no-untyped-call]


async def test_all_lanes_agree_with_pymodbus(oracle: MeterClient) -> None:
    """Values that pymodbus encodes are the values that we decode."""
    full = await oracle.poll(Lane.FULL)
    assert full.values[:37] == tuple(230.0 + place for place in range(37))
    assert full.values[37:47] == (0, 0x0800, 1, 2, 1, 99, 5, 6, 7, 8)
    assert full.values[47] == 1.5
    assert math.isnan(full.values[48])
    assert full.energy_wh == (123456, 9)
    assert full.meter_clock_s == 1_790_000_000
    assert full.restarted
    slow = await oracle.poll(Lane.SLOW)
    assert slow.values[61:] == tuple(100.0 + place for place in range(30))
    assert (await oracle.poll(Lane.SHORT)).energy_wh == (123456, 9)


async def test_identity_agrees_with_pymodbus(oracle: MeterClient) -> None:
    """Its encoding of function 0x2B is taken apart in full."""
    identity = await oracle.identify()
    assert (identity.manufacturer, identity.device_name) == ("SIEMENS AG", "SENTRON PAC3220")
    assert (identity.firmware, identity.serial_number) == ("V3.2.1", "LQN/180200110001")


async def test_writes_agree_with_pymodbus(oracle: MeterClient) -> None:
    """Function 6 is understood and its echo accepted; a refused register is an exception."""
    await oracle.switch(closed=True)
    await oracle.acknowledge_diagnostics(0x0800)
    link = await oracle._open_link()
    word = await oracle._setting(link, 60007, 2)
    assert word == int.from_bytes(struct.pack(">2H", 0x0800, 0x0100), "big")
    assert await oracle._setting(link, 51712) is None
    assert oracle.is_connected
