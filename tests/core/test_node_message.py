"""What a node says is read exactly or refused whole."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import MeterError, MeterIdentityError, MeterProtocolError
from gateway.core.lease import PowerLimits
from gateway.core.node_message import (
    ENERGY_WH_MAX,
    MESSAGE_BYTES_MAX,
    HeldCounter,
    NodeLease,
    device_of,
    parse_backlog,
    parse_event,
    parse_result,
    parse_status,
    parse_telemetry,
)
from gateway.core.reading import Quality

OLDER = (
    b'{"device_id": "esp-1", "timestamp": "2026-01-15T13:30:00+05:30", "voltage": 229.8, '
    b'"current": 1.234, "power_w": 283.4, "energy_kwh": 12.3459, "power_factor": 0.98, "rssi": -61}'
)
OURS: dict[str, object] = {
    "device_id": "node-1",
    "timestamp": 1_800_000_000,
    "voltage": 229.8,
    "current": 1.234,
    "power_w": 283.4,
    "energy_kwh": 12.345,
    "power_factor": 0.98,
    "rssi": -61,
    "frequency_hz": 50.0,
    "energy_wh": 12_345,
    "seq": 1_042,
    "boot_id": 17,
    "session": "9f3a000000000001",
    "relay": "closed",
    "reasons": [],
    "firmware": "1.0.0",
    "quality": "good",
}


def said(**changes: object) -> bytes:
    """Our telemetry with some keys changed."""
    return json.dumps({**OURS, **changes}).encode()


def test_the_older_form_is_read_with_kilowatt_hours_floored_to_whole_wh() -> None:
    """No sequence, no relay; decimal kWh."""
    found = parse_telemetry(OLDER, "esp-1")
    assert (found.energy_wh, found.seq, found.relay_closed) == (12_345, None, None)
    assert (found.voltage_v, found.current_a, found.power_w) == (229.8, 1.234, 283.4)
    assert found.node_ms == 1_768_464_000_000


def test_our_form_adds_order_relay_and_whole_wh() -> None:
    """Every field of docs/node-protocol.md."""
    found = parse_telemetry(said(energy_kwh=99.0), "node-1")
    assert (found.energy_wh, found.seq, found.boot_id) == (12_345, 1_042, 17)
    assert (found.session, found.relay_closed) == ("9f3a000000000001", True)
    assert (found.firmware, found.quality, found.rssi_dbm) == ("1.0.0", Quality.GOOD, -61.0)


@given(st.integers(0, ENERGY_WH_MAX - 1))
def test_decimal_kilowatt_hours_lose_no_watt_hour(energy_wh: int) -> None:
    """Binary fractions would: 1.001 kWh times 1000 is less than 1001."""
    text = f'{{"energy_kwh": {Decimal(energy_wh) / 1000}}}'
    assert parse_telemetry(text.encode(), "esp-1").energy_wh == energy_wh


@pytest.mark.parametrize(
    ("given_time", "expected_ms"),
    [
        (1_800_000_000, 1_800_000_000_000),
        (1_800_000_000.5, 1_800_000_000_500),
        (1_800_000_000_123, 1_800_000_000_123),
        ("2027-01-15T08:00:00Z", 1_800_000_000_000),
        ("2027-01-15T08:00:00", 1_800_000_000_000),
        (None, None),
    ],
)
def test_times_are_seconds_milliseconds_or_iso(given_time: object, expected_ms: int | None) -> None:
    """As contract.md has it."""
    assert parse_telemetry(said(timestamp=given_time), "node-1").node_ms == expected_ms


def test_a_silent_module_is_no_reading_of_zero() -> None:
    """Null values, quality bad."""
    found = parse_telemetry(said(voltage=None, current=None, power_w=None, quality="bad"), "node-1")
    assert (found.power_w, found.quality) == (None, Quality.BAD)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"energy_wh": NaN}',
        b'{"power_w": Infinity}',
        b'{"voltage": -1e400}',
        b'{"energy_kwh": 1e999999999}',
        b'{"energy_wh": 1.5}',
        b'{"energy_wh": true}',
        b'{"energy_wh": -1}',
        b'{"energy_wh": 1000000000000}',
        b'{"energy_wh": "12"}',
        b'{"energy_kwh": "12"}',
        b'{"seq": -1}',
        b'{"relay": "ajar"}',
        b'{"quality": "fine"}',
        b'{"reasons": "lease"}',
        b'{"session": "x"}',
        b'{"firmware": "' + b"9" * 65 + b'"}',
        b'{"timestamp": "yesterday"}',
        b'{"timestamp": -1}',
        b'{"timestamp": 1e30}',
        b"[" * 8_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
        b" " * (MESSAGE_BYTES_MAX + 1),
    ],
)
def test_what_has_another_form_is_refused_whole(payload: bytes) -> None:
    """Never half a reading."""
    with pytest.raises(MeterProtocolError):
        parse_telemetry(payload, "node-1")


def test_another_devices_id_inside_is_refused() -> None:
    """The topic is what the broker vouches for."""
    with pytest.raises(MeterIdentityError):
        parse_telemetry(said(device_id="node-2"), "node-1")


@given(st.binary(max_size=200))
def test_no_bytes_get_past_a_meter_error(payload: bytes) -> None:
    """Whatever comes, the caller sees a value or a MeterError."""
    for parse in (parse_telemetry, parse_status, parse_result, parse_event, parse_backlog):
        try:
            parse(payload, "node-1")
        except MeterError:
            continue


OTHERS = ("online", "ok", "id", "lease", "spooled", "kind", "at", "segment", "records")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below),
    max_leaves=6,
)


@given(st.sampled_from([*OURS, *OTHERS]), JSON)
def test_any_value_under_any_key_is_a_value_or_refused(key: str, value: object) -> None:
    """Types are checked one by one."""
    payload = json.dumps(
        {**OURS, "online": True, "ok": True, "segment": 1, "records": [], "id": "a", key: value}
    ).encode()
    for parse in (parse_telemetry, parse_status, parse_result, parse_event, parse_backlog):
        try:
            parse(payload, "node-1")
        except MeterError:
            continue


MODULES: list[dict[str, object]] = [
    {"address": 1, "voltage": 229.8, "current": 1.2, "power_w": 283.4, "energy_wh": 12_345},
    {"address": 7, "voltage": None, "quality": "bad", "energy_kwh": 1.5},
    {"address": 9, "quality": "uncertain", "energy_wh": 5, "counter_wh": 7, "held_wh": 90_000},
]


def test_several_modules_are_read_each_with_its_quality() -> None:
    """The first is the meter; one that is silent, and one whose counter is held."""
    first, silent, held = parse_telemetry(said(meters=MODULES), "node-1").modules
    assert (first.address, first.quality, first.energy_wh) == (1, Quality.GOOD, 12_345)
    assert (first.voltage_v, first.current_a, first.power_w) == (229.8, 1.2, 283.4)
    assert (silent.address, silent.quality, silent.energy_wh) == (7, Quality.BAD, 1_500)
    assert silent.voltage_v is None
    assert (held.quality, held.held) == (Quality.UNCERTAIN, HeldCounter(7, 90_000))
    assert parse_telemetry(said(), "node-1").modules == ()


@pytest.mark.parametrize(
    "meters",
    [
        {},
        "x",
        [1],
        [{}],
        [{"address": 0}],
        [{"address": 248}],
        [{"address": 1.0}],
        [{"address": 1, "quality": "fine"}],
        [{"address": 1, "voltage": 1_001}],
        [{"address": 1, "energy_wh": -1}],
        [{"address": 1, "counter_wh": 1, "held_wh": ENERGY_WH_MAX}],
        [{"address": 1}, {"address": 1}],
        [{"address": one} for one in range(1, 5)],
    ],
)
def test_modules_of_another_form_are_refused_with_the_whole_message(meters: object) -> None:
    """Also where the meter's own values are good."""
    with pytest.raises(MeterProtocolError):
        parse_telemetry(said(meters=meters), "node-1")


def test_a_held_counter_is_told_with_the_last_good_one() -> None:
    """Either alone is none."""
    told = said(quality="uncertain", counter_wh=12_345, held_wh=50_000)
    assert parse_telemetry(told, "node-1").held == HeldCounter(12_345, 50_000)
    for half in ({"counter_wh": 5}, {"held_wh": 5}, {}):
        assert parse_telemetry(said(**half), "node-1").held is None


def test_a_status_tells_what_the_firmware_can_and_the_limits_of_its_lease() -> None:
    """None of either from an older one."""
    lease = {"epoch": "E", "seq": 3, "cutoff_wh": 5, "expires": 9}
    told: dict[str, object] = {"online": True, "lease": lease}
    older = parse_status(json.dumps(told).encode(), "node-1")
    assert (older.can, older.lease) == ((), NodeLease("E", 3, 5, 9))
    limits = {"limit_w": 3_000, "emergency_limit_w": 1_000, "emergency_wh": 4}
    told |= {"can": ["limits", "release"], "lease": lease | limits}
    ours = parse_status(json.dumps(told).encode(), "node-1")
    assert ours.can == ("limits", "release")
    assert ours.lease == NodeLease("E", 3, 5, 9, PowerLimits(3_000, 1_000, 4))
    for wrong in ({"can": "limits"}, {"can": ["x"] * 17}, {"lease": lease | {"limit_w": -1}}):
        with pytest.raises(MeterProtocolError):
            parse_status(json.dumps(told | wrong).encode(), "node-1")


def test_topics_name_device_and_kind() -> None:
    """Anything else is of no node."""
    assert device_of("smartmeter/node-1/telemetry") == ("node-1", "telemetry")
    for topic in ("smartmeter/Node/telemetry", "smartmeter//x", "a/b/c", "smartmeter/a b/x", "x"):
        with pytest.raises(MeterProtocolError):
            device_of(topic)


def test_a_status_tells_session_lease_and_backlog() -> None:
    """And its Will that the node is gone."""
    found = parse_status(
        b'{"device_id":"n-1","online":true,"session":"00000000000000aa","boot_id":3,"spooled":7,'
        b'"lease":{"epoch":"E","seq":4,"cutoff_wh":500,"expires":0}}',
        "n-1",
    )
    assert (found.online, found.session, found.boot_id, found.spooled) == (
        True,
        "0" * 14 + "aa",
        3,
        7,
    )
    assert found.lease is not None
    assert (found.lease.epoch, found.lease.seq, found.lease.cutoff_wh) == ("E", 4, 500)
    assert parse_status(b'{"online":false}', "n-1").online is False


def test_a_backlog_is_read_record_by_record() -> None:
    """Integers with their units; the clock's flag says whether the time counts."""
    found = parse_backlog(
        b'{"segment":3,"session":"00000000000000aa","records":'
        b"[[9,2,1800000000,77,5000,2298,1234,2834,98,7],[10,2,1800000900,78,5001,0,0,0,0,14]]}",
        "n-1",
    )
    first, second = found.records
    assert (found.segment, first.unix_s, first.energy_wh) == (3, 1_800_000_000, 5_000)
    assert (first.voltage_v, first.current_a, first.power_w) == (229.8, 1.234, 283.4)
    assert (first.power_factor, first.is_good) == (0.98, True)
    assert (second.unix_s, second.is_good) == (0, False)


@pytest.mark.parametrize(
    "records",
    [
        "7",
        "[7]",
        "[[1,2,3]]",
        "[[1,2,3,4,5,6,7,8,9,-1]]",
        "[[1,2,3,4,5.5,6,7,8,9,1]]",
        "[[1,2,3,4,1000000000000,6,7,8,9,1]]",
        "[" + ",".join(["[1,2,3,4,5,6,7,8,9,1]"] * 257) + "]",
    ],
)
def test_a_damaged_backlog_is_refused_whole(records: str) -> None:
    """No record of it counts."""
    with pytest.raises(MeterProtocolError):
        parse_backlog(f'{{"segment":1,"records":{records}}}'.encode(), "n-1")
