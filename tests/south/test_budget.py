"""How many messages a device may send."""

from gateway.south import budget
from gateway.south.budget import BURST, COST, PER_S, QUIET_NS, Budget

NS = 1_000_000_000


def admitted(found: Budget, device_id: str, count: int, now_ns: int, kind: str = "event") -> int:
    """How many of so many messages are heard."""
    return sum(found.admits(device_id, kind, now_ns) for _ in range(count))


def test_a_burst_is_heard_and_then_so_many_a_second() -> None:
    """Whatever comes; what is left out costs nothing more."""
    found = Budget()
    assert admitted(found, "a", 3 * BURST, 0) == BURST
    assert admitted(found, "a", 1_000, NS) == PER_S
    assert admitted(found, "a", 1_000, NS + NS // 2) == PER_S // 2
    assert admitted(found, "a", 1_000, 1_000 * NS) == BURST


def test_one_device_takes_nothing_from_another() -> None:
    """Each has its own."""
    found = Budget()
    admitted(found, "a", 10_000, 0)
    assert admitted(found, "b", BURST, 0) == BURST


def test_kept_readings_cost_more() -> None:
    """A segment is work of many messages; what is too dear leaves room for what is not."""
    found = Budget()
    assert admitted(found, "a", 100, 0, "backlog") == BURST // COST["backlog"]
    assert admitted(found, "a", 9, NS - 1, "telemetry") == PER_S - 1
    assert admitted(found, "a", 9, NS - 1, "backlog") == 0


def test_a_flood_is_news_once_and_again_after_a_quiet_minute() -> None:
    """However long it lasts."""
    found, now_ns = Budget(), 0
    admitted(found, "a", BURST, 0)
    assert not found.is_news("a")
    assert not found.admits("a", "event", 0)
    told = 0
    for _ in range(200):
        now_ns += NS
        admitted(found, "a", PER_S + 1, now_ns)
        told += found.is_news("a")
    assert told == 1
    now_ns += QUIET_NS
    assert admitted(found, "a", BURST + 1, now_ns) == BURST
    assert found.is_news("a")
    assert not found.is_news("b")


def test_names_are_forgotten_before_they_fill_memory() -> None:
    """The longest silent first: it begins anew, with a whole burst."""
    found = Budget()
    for place in range(budget.NAMES_MAX + 50):
        admitted(found, f"n-{place}", 1, place)
    assert len(found._held) == budget.NAMES_MAX
    assert admitted(found, "n-0", BURST, 10**6) == BURST
