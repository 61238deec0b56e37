"""Packing of readings: rows of a sweep, columns of a chunk."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import StoreCorruptError, StoreError
from gateway.store.chunks import (
    StagedReading,
    column_of,
    decimals_of,
    pack_columns,
    pack_integers,
    pack_rows,
    pack_values,
    unpack_integers,
    unpack_rows,
    unpack_values,
    value_struct,
)

NOON = 1_795_176_000_000
NAMES = ("voltage_l1_n_v", "energy_import_t1_wh", "outputs_bits")
VALUES = (230.125, 1e9 + 1.001, 4294967295.0)


@given(st.lists(st.integers(-(2**62) + 1, 2**62 - 1), min_size=1, max_size=200))
def test_integers_survive_packing(numbers: list[int]) -> None:
    """Any column of whole numbers below 2^62 comes back exactly."""
    assert unpack_integers(pack_integers(numbers), len(numbers)) == numbers


@pytest.mark.parametrize("decimals", [0, 1, 3])
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=200))
def test_values_survive_packing_to_their_resolution(decimals: int, numbers: list[float]) -> None:
    """Each value within half of the last decimal, or undefined: no number, or too large."""
    found = unpack_values(pack_values(numbers, decimals), len(numbers))
    for value, kept in zip(numbers, found, strict=True):
        if math.isfinite(value) and abs(value) * 10**decimals < 2**62:
            assert kept is not None
            assert abs(kept - value) <= 0.5 / 10**decimals + abs(value) * 1e-15
        else:
            assert kept is None


@pytest.mark.parametrize(
    ("name", "decimals"),
    [
        ("voltage_l1_n_v", 1),
        ("current_l1_a", 3),
        ("active_power_total_w", 0),
        ("reactive_power_l1_var", 0),
        ("frequency_hz", 2),
        ("thd_voltage_l1_percent", 1),
        ("energy_import_t1_wh", 0),
        ("power_factor_l1", 3),
        ("outputs_bits", 0),
    ],
)
def test_resolution_follows_the_unit(name: str, decimals: int) -> None:
    """Decimals are those of the unit in the value's name: well below what a meter can tell."""
    assert decimals_of(name) == decimals


def test_quiet_columns_take_a_few_bytes() -> None:
    """What does not change, or grows evenly, costs nothing a row: most columns of most meters."""
    for column in ([0] * 300, [5_000_000_000] * 300, list(range(0, 300_000, 1_000))):
        packed = pack_integers(column)
        assert len(packed) <= 8
        assert unpack_integers(packed, 300) == column
    assert len(pack_values([230.0] * 300, 1)) <= 5
    assert unpack_values(pack_values([230.04] * 300, 1), 300) == [230.0] * 300


@given(st.binary(max_size=40), st.integers(1, 20))
def test_rubbish_is_an_error_never_a_crash(column: bytes, rows: int) -> None:
    """Any bytes are either a column of so many rows or a StoreCorruptError."""
    try:
        assert len(unpack_values(column, rows)) == rows
    except StoreCorruptError:
        return


def test_columns_are_found_by_number() -> None:
    """Each column alone; beyond the last one is an error, not another's bytes."""
    body = pack_columns([b"a", b"", b"ccc"])
    assert [column_of(body, index) for index in range(3)] == [b"a", b"", b"ccc"]
    for index in (-1, 3):
        with pytest.raises(StoreError):
            column_of(body, index)
    with pytest.raises(StoreError):
        column_of(b"\x05\x00", 0)


def test_rows_of_a_sweep_survive_packing() -> None:
    """Rows with and without values, of several layouts; one meter can be picked."""
    structs = {1: value_struct(NAMES), 2: value_struct(("power_w",))}
    rows = [
        StagedReading(5, 1, NOON, 2**63, (10**12, 0), VALUES),
        StagedReading(6, 2, NOON, 3, (), (0.5,)),
        StagedReading(5, 1, NOON + 1, 4, (7,), ()),
    ]
    body = pack_rows(rows, structs)
    assert unpack_rows(body, structs) == [
        rows[0],
        rows[1],
        StagedReading(5, 0, NOON + 1, 4, (7,), ()),
    ]
    assert [row.sequence for row in unpack_rows(body, structs, 5)] == [2**63, 4]
    with pytest.raises(StoreError):
        unpack_rows(body[:-3], structs)


def test_value_beyond_32_bits_is_undefined_not_fatal() -> None:
    """A voltage of 1e300 does not cost the sweep."""
    structs = {1: value_struct(("a_v", "b_v"))}
    body = pack_rows([StagedReading(1, 1, 0, 1, (), (1e300, 5.0))], structs)
    (row,) = unpack_rows(body, structs)
    assert math.isnan(row.values[0])
    assert row.values[1] == 5.0
