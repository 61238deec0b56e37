"""The gateway's table of a node's settings says what the firmware's does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import node_settings
from gateway.core.errors import RefusedError
from gateway.core.node_settings import check_settings
from node import settings as firmware


def test_the_table_is_the_firmwares() -> None:
    """Every setting with its limits, in the firmware's order; nothing else."""
    theirs = {name: (low, high) for name, (_, low, high) in firmware.NUMBERS.items()}
    assert theirs == node_settings.NUMBERS
    assert [*firmware.defaults()] == [*node_settings.NUMBERS, node_settings.MODULES]


names = st.sampled_from([*firmware.NUMBERS, "modules", "wifi", ""])
numbers = st.one_of(
    st.integers(-1, 5), st.integers(0, 100_001), st.sampled_from([10_000, 1_900, 2_500, 300, 60])
)
values = st.one_of(
    numbers, numbers, st.none(), st.booleans(), st.text(max_size=3),
    st.lists(st.integers(0, 248), max_size=4), st.lists(st.booleans(), max_size=2),
)  # fmt: skip


@given(st.dictionaries(names, values, min_size=1, max_size=4))
def test_what_is_sent_is_taken_and_what_is_refused_would_be(changes: dict[str, object]) -> None:
    """By a node with its defaults; a refusal names the setting and repeats no value."""
    try:
        firmware.changed(firmware.defaults(), changes)
    except ValueError:
        with pytest.raises(RefusedError) as caught:
            check_settings(changes)
        place = caught.value.place.removeprefix("settings.")
        assert place in ("settings", *changes)
        for value in changes.values():
            if isinstance(value, str) and len(value) == 3:
                assert repr(value) not in caught.value.message
    else:
        assert check_settings(changes) == changes


def test_nothing_is_no_change() -> None:
    """A node would take it and keep a file for nothing."""
    with pytest.raises(RefusedError, match="at least one"):
        check_settings({})
