"""The register map: runs, holes, edges, and agreement with the driver's own transcription."""

import pytest

from gateway.sim.registers import (
    BLOCK_AT,
    BLOCKS,
    DISCRETE_BITS,
    ENERGY_PARTS,
    FLOAT_PARTS,
    Part,
    plan_read,
)
from gateway.south.models.pac3220 import MODEL
from gateway.south.registers import Format

WORDS = {Format.FLOAT32: 2, Format.UINT32: 2, Format.FLOAT64: 4}


def runs(low: int, high: int) -> list[tuple[int, int]]:
    """Contiguous documented stretches within a range, first and last register."""
    found: list[tuple[int, int]] = []
    for register in range(low, high + 1):
        if register not in BLOCK_AT:
            continue
        if found and found[-1][1] == register - 1:
            found[-1] = (found[-1][0], register)
        else:
            found.append((register, register))
    return found


def test_blocks_do_not_overlap() -> None:
    """Every register belongs to one block."""
    assert sum(block.end - block.start for block in BLOCKS) == len(BLOCK_AT)


def test_measured_values_have_the_documented_runs() -> None:
    """1-228, 231-240, 501-520 and 799-960 are contiguous; what lies between does not exist."""
    assert runs(0, 2_000) == [(1, 228), (231, 240), (501, 520), (799, 960)]


def test_output_parameters_have_their_hole() -> None:
    """51714 and its like do not exist: 51711..51713 and 51715..51719 are read apart."""
    assert plan_read(51711, 3, 0) is not None
    assert plan_read(51715, 5, 0) is not None
    assert plan_read(51711, 9, 0) is None
    assert {51714, 51723, 51732, 51741, 51750, 51759}.isdisjoint(BLOCK_AT)


@pytest.mark.parametrize(
    ("start", "count"), [(1, 74), (203, 26), (799, 42), (841, 120), (801, 8), (207, 2), (231, 10)]
)
def test_the_read_plan_of_the_notes_is_legal(start: int, count: int) -> None:
    """Every read of section 6 begins and ends on values and meets no hole."""
    assert plan_read(start, count, 0) is not None


@pytest.mark.parametrize(
    ("start", "count", "why"),
    [
        (2, 2, "starts inside a float"),
        (803, 4, "starts inside a double"),
        (1, 3, "ends inside a float"),
        (801, 6, "ends inside a double"),
        (0, 2, "before the map"),
        (229, 2, "a hole"),
        (227, 6, "across a hole"),
        (239, 4, "beyond a run"),
        (64001, 26, "part of an I&M block"),
        (60008, 1, "a command register"),
    ],
)
def test_illegal_reads_have_no_plan(start: int, count: int, why: str) -> None:
    """Reads that the manual forbids are not answered."""
    assert plan_read(start, count, 0) is None, why


def test_leniency_reads_small_holes_as_zero_and_no_others() -> None:
    """With leniency a hole of two registers between values passes, an edge in it does not."""
    slices = plan_read(227, 6, 2)
    assert slices is not None
    assert [piece.block is None for piece in slices] == [False, True, False]
    assert plan_read(227, 6, 1) is None
    assert plan_read(229, 4, 2) is None
    assert plan_read(227, 4, 2) is None


def test_the_driver_knows_the_same_values() -> None:
    """Each measurement of the driver's model is a value here, of the same width and kind."""
    assert len(MODEL.measurements) > 80
    for measurement in MODEL.measurements:
        block = BLOCK_AT[measurement.address]
        assert (measurement.address - block.start) % block.words == 0, measurement.name
        assert block.words == WORDS[measurement.format], measurement.name
        assert (block.part in FLOAT_PARTS) == (measurement.format is Format.FLOAT32)
        assert (block.part in ENERGY_PARTS) == (measurement.format is Format.FLOAT64)


def test_discrete_bits_are_those_of_the_manual() -> None:
    """The listed bits exist, the gaps between them do not, coil 0 is limit 0."""
    assert {0, 5, 51, 108, 112, 118, 131, 200, 201, 235, 267, 300, 365} <= DISCRETE_BITS
    assert {6, 50, 52, 107, 113, 119, 132, 202, 236, 302, 366}.isdisjoint(DISCRETE_BITS)
    assert len(DISCRETE_BITS) == 40


def test_every_part_has_a_place() -> None:
    """No part of the map is declared and never placed."""
    assert {block.part for block in BLOCKS} == set(Part)
