"""Load shedding: the lowest priority first, never more than needed, back in the opposite order."""

from dataclasses import dataclass, field

from gateway.core.proof import NS
from gateway.core.shedding import Candidate, Shedder, ShedOrder, ShedRules

RULES = ShedRules(over_s=30, release_s=120, margin_percent=10)


@dataclass
class Riser:
    """A feeder whose points obey at once; `loads_w` is what each draws while closed."""

    loads_w: dict[int, float]
    priorities: dict[int, int] = field(default_factory=dict)
    critical: set[int] = field(default_factory=set)
    capacity_w: int | None = None
    shedder: Shedder = field(default_factory=lambda: Shedder(RULES))
    shed: set[int] = field(default_factory=set)
    went: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)

    def candidates(self) -> list[Candidate]:
        """The points as the governor would show them."""
        return [
            Candidate(
                point=point,
                priority=self.priorities.get(point, 5),
                load_w=0.0 if point in self.shed else load_w,
                expected_w=load_w,
                may_go=point not in self.critical and point not in self.shed,
                is_shed=point in self.shed,
            )
            for point, load_w in self.loads_w.items()
        ]

    def run(self, seconds: range) -> None:
        """One round a second."""
        for second in seconds:
            result = self.shedder.judge(second * NS, self.candidates(), self.capacity_w)
            self.shed |= set(result.go)
            self.shed -= set(result.back)
            self.went += result.go
            self.back += result.back


def test_a_capacity_is_shed_to_after_its_time_and_no_further() -> None:
    """1,000 W too much: the lowest priority goes, of equals the larger load, until it fits."""
    riser = Riser({0: 3_000, 1: 600, 2: 700, 3: 1_500}, {0: 9, 1: 2, 2: 2, 3: 5}, capacity_w=4_800)
    riser.run(range(30))
    assert riser.went == []
    riser.run(range(30, 60))
    assert riser.went == [2, 1]


def test_a_moment_at_the_capacity_begins_the_wait_anew() -> None:
    """A start of a motor sheds nobody."""
    riser = Riser({0: 5_000}, capacity_w=4_800)
    riser.run(range(29))
    riser.loads_w[0] = 4_800
    riser.run(range(29, 31))
    riser.loads_w[0] = 5_000
    riser.run(range(31, 60))
    assert riser.went == []


def test_a_critical_point_never_goes() -> None:
    """Though it alone is what is too much."""
    riser = Riser({0: 9_000, 1: 100}, {0: 1, 1: 9}, critical={0}, capacity_w=5_000)
    riser.run(range(100))
    assert riser.went == [1]


def test_points_come_back_in_the_opposite_order_when_they_fit() -> None:
    """Two minutes after the last went, with a tenth left free, each counted before it draws."""
    riser = Riser({0: 3_000, 1: 1_000, 2: 900}, {0: 9, 1: 1, 2: 2}, capacity_w=3_100)
    riser.run(range(31))
    assert riser.went == [1, 2]
    riser.loads_w[0] = 1_000
    riser.run(range(31, 150))
    assert riser.back == []
    riser.run(range(150, 151))
    assert riser.back == [2]
    # 1,000 + 900 + 1,000 W are more than nine tenths of the capacity.
    riser.run(range(151, 400))
    assert riser.back == [2]
    riser.loads_w[0] = 600
    riser.run(range(400, 402))
    assert riser.back == [2, 1]


def test_an_order_sheds_at_once_and_stays_until_it_is_ended() -> None:
    """Down to a power, without the wait that a capacity has."""
    riser = Riser({0: 1_000, 1: 1_000, 2: 1_000}, {0: 3, 1: 2, 2: 1})
    riser.shedder.order = ShedOrder(1_500, None, "anna", "transformer hot")
    riser.run(range(1))
    assert riser.went == [2, 1]
    riser.run(range(1, 1_000))
    assert riser.back == []
    riser.shedder.order = None
    riser.run(range(1_000, 1_003))
    assert riser.back == [1, 2]


def test_an_order_by_priority_takes_everybody_below() -> None:
    """Also those that draw nothing: what they switch on later is not wanted either."""
    riser = Riser({0: 1_000, 1: 0, 2: 500}, {0: 4, 1: 3, 2: 1})
    riser.shedder.order = ShedOrder(None, 4, "anna", "generator only")
    riser.run(range(400))
    assert (riser.went, riser.back) == ([2, 1], [])
    riser.shedder.order = None
    riser.run(range(400, 403))
    assert riser.back == [1, 2]


def test_an_order_and_its_sequence_survive_a_restart() -> None:
    """A point that left the configuration is forgotten, one with the reason is taken up."""
    riser = Riser({0: 1_000, 1: 1_000, 2: 1_000}, {0: 3, 1: 2, 2: 1})
    riser.shedder.order = ShedOrder(500, None, "anna", "hot")
    riser.run(range(1))
    kept = riser.shedder.snapshot({0: "flat-0", 1: "flat-1", 2: "flat-2"})
    assert kept is not None
    again = Shedder(RULES)
    again.restore(kept, {"flat-0": 0, "flat-1": 1}, 0)
    assert again.order == riser.shedder.order
    assert again.shed == [1, 0]
    again.judge(0, riser.candidates(), None)
    assert again.shed == [1, 0, 2]


def test_nothing_shed_and_nothing_ordered_is_nothing_to_remember() -> None:
    """The sweep's state stays small."""
    assert Shedder(RULES).snapshot({}) is None
