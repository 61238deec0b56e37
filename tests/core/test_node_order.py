"""Duplicates and older messages of a node are left out, and two devices of one name are seen."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.node_order import RETURNS_NS, NodeOrder, Place

A, B, C = "a" * 16, "b" * 16, "c" * 16
NS = 10**9


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), max_size=40))
def test_what_is_taken_only_ever_moves_on(messages: list[tuple[int, int]]) -> None:
    """Any order, any duplicates: what counts is strictly increasing in (boot, sequence)."""
    order, taken = NodeOrder(), [(-1, -1)]
    for boot_id, seq in messages:
        place = order.place(boot_id, seq, f"{boot_id:016x}", 0)
        if place in (Place.NEXT, Place.NEW_BOOT):
            taken.append((boot_id, seq))
    assert taken == sorted(set(taken))
    assert max(messages, default=(-1, -1)) == taken[-1]


def test_the_same_message_twice_counts_once() -> None:
    """QoS 1 delivers at least once."""
    order = NodeOrder()
    assert order.place(1, 7, A, 0) is Place.NEW_BOOT
    assert order.place(1, 7, A, 0) is Place.DUPLICATE
    assert order.place(1, 6, A, 0) is Place.OLDER
    assert order.place(1, 9, A, 0) is Place.NEXT


def test_after_a_start_of_the_gateway_the_order_goes_on() -> None:
    """Boot and sequence are kept with the device."""
    order = NodeOrder()
    order.restore(4, 100)
    assert order.announced(A, 4, 0) is Place.NEW_BOOT
    assert order.place(4, 100, A, 0) is Place.DUPLICATE
    assert order.place(4, 101, A, 0) is Place.NEXT


def test_a_node_whose_memory_was_erased_begins_again_with_its_status() -> None:
    """Its boots count from 1, and nobody would ever hear of it again otherwise."""
    order = NodeOrder()
    order.restore(40, 100)
    assert order.place(1, 0, B, 0) is Place.OLDER
    assert order.announced(B, 1, 0) is Place.NEW_BOOT
    assert order.place(1, 0, B, 0) is Place.NEXT


def test_sessions_that_keep_coming_back_are_two_devices() -> None:
    """One straggler is older; three returns within the time are a twin."""
    order = NodeOrder()
    order.announced(A, 1, 0)
    order.announced(B, 1, 0)
    assert order.announced(A, 1, 1 * NS) is Place.OLDER
    assert order.place(1, 5, A, 2 * NS) is Place.OLDER
    assert order.announced(A, 1, 3 * NS) is Place.TWIN


def test_slow_stragglers_are_no_twins() -> None:
    """Three in a day say nothing."""
    order = NodeOrder()
    order.announced(A, 1, 0)
    order.announced(B, 2, 0)
    for place in range(5):
        assert order.announced(A, 1, place * RETURNS_NS) is Place.OLDER
