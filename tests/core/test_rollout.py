"""A staged roll-out, rule by rule; every order of results is in `test_rollout_machine.py`."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.core.errors import RefusedError
from gateway.core.rollout import Rollout
from gateway.core.rollout_plan import (
    LEFT_OUT_MS,
    QUIET_MS,
    STALL_MS,
    ChunkAsk,
    Image,
    Member,
    Phase,
    Plan,
    Seen,
    State,
    ask_problem,
    check_plan,
)

IMAGE = Image("a" * 64, "2.0.0", "esp32-pzem-1", 1, 3_000)
OLD = Seen(present=True, session="1" * 16, firmware="1.0.0", hardware="esp32-pzem-1")
NEW = replace(OLD, session="2" * 16, firmware="2.0.0")
ON_TRIAL = replace(NEW, on_trial=True)
HOUR_MS = 3_600_000


class Site:
    """A roll-out over so many devices, all seen with the old version at first."""

    def __init__(self, count: int, plan: Plan | None = None) -> None:
        self.names = [f"node-{number:02}" for number in range(count)]
        self.seen = dict.fromkeys(self.names, OLD)
        members = [Member(name) for name in self.names]
        self.rollout = Rollout(1, IMAGE, plan or Plan(), members)
        self.rollout.begin(self.seen)

    def look(self, seconds: int = 1) -> list[str]:
        """Time passes; who is to be told of the image."""
        self.rollout.look(self.seen, seconds * 1_000)
        return self.rollout.offers(self.seen)

    def phase(self, name: str) -> Phase:
        """Where a device stands."""
        member = self.rollout.member(name)
        assert member is not None
        return member.phase

    def of(self, phase: Phase) -> list[str]:
        """The devices that stand there."""
        return [member.device_id for member in self.rollout.members if member.phase is phase]

    def fetch(self, name: str) -> None:
        """A device takes the offer and fetches all of it."""
        self.rollout.accepted(name, self.seen[name].session)
        for offset in range(0, IMAGE.size, 1_024):
            count = min(1_024, IMAGE.size - offset)
            assert self.rollout.asked(name, ChunkAsk("1" * 16, "2.0.0", offset, count))

    def update(self, name: str) -> None:
        """A device does everything right."""
        self.fetch(name)
        self.seen[name] = NEW
        self.look()

    def end_of(self, name: str) -> tuple[Phase, str, str]:
        """How a device ended."""
        member = self.rollout.member(name)
        assert member is not None
        return member.phase, member.code, member.reason


def test_one_device_then_a_tenth_then_all_with_an_hour_between() -> None:
    """The default plan over twenty nodes, never more than four at once."""
    site = Site(20)
    assert site.look() == ["node-00"]
    assert site.look() == ["node-00"]
    site.update("node-00")
    assert site.look(3_590) == []
    assert site.rollout.stage == 0
    site.look(10)
    assert site.look() == ["node-01"]
    site.update("node-01")
    site.look(3_600)
    assert site.look() == ["node-02", "node-03", "node-04", "node-05"]
    site.update("node-03")
    assert site.look() == ["node-02", "node-04", "node-05", "node-06"]
    for name in site.names[2:]:
        if site.phase(name) is not Phase.DONE:
            site.update(name)
    site.look()
    assert (site.rollout.state, len(site.of(Phase.DONE))) == (State.COMPLETED, 20)


def test_a_device_is_followed_through_every_phase() -> None:
    """Offered, fetching, installing, on trial, done: each once, and told."""
    site = Site(1)
    site.look()
    assert site.phase("node-00") is Phase.OFFERED
    site.rollout.accepted("node-00", OLD.session)
    assert site.phase("node-00") is Phase.FETCHING
    assert site.rollout.asked("node-00", ChunkAsk("1" * 16, "2.0.0", 1_024, 1_024))
    assert site.rollout.members[0].offset == 1_024
    assert site.rollout.asked("node-00", ChunkAsk("1" * 16, "2.0.0", 2_048, 952))
    assert site.phase("node-00") is Phase.INSTALLING
    assert site.look(60) == []
    site.seen["node-00"] = ON_TRIAL
    assert site.look(60) == []
    assert site.phase("node-00") is Phase.TRIAL
    site.seen["node-00"] = NEW
    site.look()
    site.look()
    assert [news.kind for news in site.rollout.take_news()] == [
        "ROLLOUT_BEGUN",
        "ROLLOUT_DEVICE_DONE",
        "ROLLOUT_COMPLETED",
    ]


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (replace(OLD, approved=False), "NOT_APPROVED"),
        (replace(OLD, hardware="esp32-pzem-9"), "OTHER_HARDWARE"),
        (replace(OLD, hardware=""), "THIRD_PARTY"),
        (replace(OLD, session=""), "THIRD_PARTY"),
        (NEW, "SAME_VERSION"),
    ],
)
def test_who_is_left_out(seen: Seen, code: str) -> None:
    """At the beginning, and when a device is heard for the first time later."""
    site = Site(2)
    site.seen["node-01"] = seen
    site.look()
    assert site.end_of("node-01") == (Phase.SKIPPED, code, "")
    rollout = Rollout(1, IMAGE, Plan(), [Member("node-01")])
    with pytest.raises(RefusedError, match=code):
        rollout.begin({"node-01": seen})


def test_one_that_is_away_waits_and_holds_up_nobody() -> None:
    """Another one is the first; after an hour without it the roll-out goes on; a week ends it."""
    site = Site(3)
    site.seen["node-00"] = Seen()
    site.seen["node-01"] = Seen()
    assert site.look() == ["node-02"]
    site.update("node-02")
    site.look(3_600)
    assert site.rollout.stage == 1
    site.look(3_599)
    assert site.rollout.stage == 1
    site.look(1)
    site.look(3_600)
    assert site.rollout.stage == 2
    site.seen["node-00"] = OLD
    assert site.look() == ["node-00"]
    site.update("node-00")
    site.look(LEFT_OUT_MS // 1_000)
    assert site.end_of("node-01") == (Phase.SKIPPED, "OFFLINE", "")
    site.look()
    assert site.rollout.state is State.COMPLETED


def test_no_stage_ends_before_one_device_has_proved_the_image() -> None:
    """However long nobody is there."""
    site = Site(3)
    site.seen = dict.fromkeys(site.names, Seen())
    for _ in range(100):
        site.look(3_600)
    assert (site.rollout.stage, site.of(Phase.WAITING)) == (0, site.names)


def test_a_failure_stops_it_and_only_what_installs_goes_on() -> None:
    """Who waits or fetches is left as it is; the one on its way is followed to its end."""
    site = Site(6, Plan(stages=(100,), parallel_max=3))
    site.look()
    site.fetch("node-00")
    site.rollout.accepted("node-01", OLD.session)
    site.rollout.refused("node-02", "UPDATE_OLD", "security counter 1 is too low")
    assert site.rollout.state is State.STOPPED
    assert site.rollout.why == "1 device failed, failures_max is 1"
    assert site.end_of("node-02") == (
        Phase.FAILED,
        "UPDATE_OLD",
        "security counter 1 is too low",
    )
    assert site.phase("node-00") is Phase.INSTALLING
    assert site.end_of("node-01") == (Phase.SKIPPED, "STOPPED", "")
    assert site.look() == []
    assert not site.rollout.asked("node-01", ChunkAsk("1" * 16, "2.0.0", 0, 1_024))
    assert (site.rollout.is_open, site.rollout.holds("node-00")) == (True, True)
    assert not site.rollout.holds("node-05")
    site.seen["node-00"] = NEW
    site.look()
    assert (site.phase("node-00"), site.rollout.is_open) == (Phase.DONE, False)


def test_failures_below_the_limit_begin_the_observation_anew() -> None:
    """Another device takes the place of the one that failed; nothing is passed without one done."""
    site = Site(4, Plan(failures_max=3))
    site.look()
    site.rollout.refused("node-00", "STORAGE_FULL", "")
    assert site.look() == ["node-01"]
    site.update("node-01")
    site.look(3_000)
    site.seen["node-01"] = replace(OLD, session="3" * 16)
    assert site.look(590) == ["node-02"]
    assert site.end_of("node-01") == (Phase.FAILED, "UPDATE_BACK", "it went back to 1.0.0")
    site.update("node-02")
    site.look(3_598)
    assert site.rollout.stage == 0
    site.look(1)
    assert site.rollout.stage == 1


def test_observation_counts_while_its_devices_are_there() -> None:
    """One that falls silent after its update is a failure in the end."""
    site = Site(3)
    site.look()
    site.update("node-00")
    site.look(3_000)
    site.seen["node-00"] = Seen()
    site.look(3_599)
    assert (site.rollout.stage, site.rollout.observed_ms) == (0, 3_001_000)
    site.look(1)
    assert site.end_of("node-00")[:2] == (Phase.FAILED, "ROLLOUT_SILENT")
    assert site.rollout.state is State.STOPPED


def test_a_node_that_goes_back_has_failed_with_its_own_reason() -> None:
    """Whether it was seen on trial or not; without a reason that is said."""
    back = replace(OLD, session="3" * 16)
    told = replace(back, update_version="2.0.0", failed="nothing of gateway in 5 minutes")
    ends = []
    for on_trial, seen in ((True, told), (False, told), (True, back)):
        site = Site(1)
        site.look()
        site.fetch("node-00")
        if on_trial:
            site.seen["node-00"] = ON_TRIAL
            site.look()
        site.seen["node-00"] = seen
        site.look()
        ends.append(site.end_of("node-00"))
    assert ends[0] == (Phase.FAILED, "UPDATE_BACK", "nothing of gateway in 5 minutes")
    assert ends[1] == ends[0]
    assert ends[2][2] == "it went back to 1.0.0, and says not why"


def test_what_a_node_refuses_after_it_fetched_is_its_code() -> None:
    """Its status says so in the same session; the failure of an earlier time does not count."""
    site = Site(1)
    site.seen["node-00"] = replace(OLD, update_version="2.0.0", failed="UPDATE_DAMAGED")
    assert site.look() == ["node-00"]
    assert site.look() == ["node-00"]
    assert site.phase("node-00") is Phase.OFFERED
    site.seen["node-00"] = OLD
    site.fetch("node-00")
    site.seen["node-00"] = replace(
        OLD, update_version="2.0.0", failed="UPDATE_SIGNATURE", note="not signed"
    )
    site.look()
    assert site.end_of("node-00") == (Phase.FAILED, "UPDATE_SIGNATURE", "not signed")


def test_a_node_that_restarts_before_it_changed_is_told_again() -> None:
    """While it fetched or unpacked: it goes on where its flash ends."""
    for fetched in (False, True):
        site = Site(1)
        site.look()
        site.rollout.accepted("node-00", OLD.session)
        if fetched:
            site.fetch("node-00")
        assert site.look() == []
        site.seen["node-00"] = replace(OLD, session="3" * 16)
        assert site.look() == ["node-00"]
        site.rollout.accepted("node-00", "3" * 16)
        assert site.look() == []


def test_a_node_that_stopped_asking_is_told_again_and_given_up_in_the_end() -> None:
    """Half a minute; then twenty without a byte more. What its status shows is progress too."""
    site = Site(1)
    site.look()
    site.rollout.accepted("node-00", OLD.session)
    assert site.look(STALL_MS // 1_000 - 1) == []
    assert site.look(1) == ["node-00"]
    site.seen["node-00"] = replace(OLD, update_version="2.0.0", offset=1_024)
    assert site.look(1) == []
    assert site.rollout.members[0].offset == 1_024
    site.look(QUIET_MS // 1_000 - 2)
    assert site.phase("node-00") is Phase.FETCHING
    site.look(1)
    assert site.end_of("node-00")[:2] == (Phase.FAILED, "ROLLOUT_DEADLINE")


def test_a_trial_without_an_end_is_given_up() -> None:
    """A node that neither proves itself nor goes back."""
    site = Site(1)
    site.look()
    site.fetch("node-00")
    site.seen["node-00"] = ON_TRIAL
    site.look()
    site.look(QUIET_MS // 1_000)
    assert site.end_of("node-00")[:2] == (Phase.FAILED, "ROLLOUT_DEADLINE")


def test_a_node_that_goes_away_waits_again_or_has_failed() -> None:
    """Before it has everything nothing is lost; afterwards silence is bad news."""
    site = Site(2, Plan(stages=(100,), failures_max=5))
    site.look()
    site.rollout.accepted("node-00", OLD.session)
    site.fetch("node-01")
    site.seen = dict.fromkeys(site.names, Seen())
    site.look(3_599)
    assert site.of(Phase.INSTALLING) == ["node-01"]
    site.look(1)
    assert site.phase("node-00") is Phase.WAITING
    assert site.end_of("node-01")[:2] == (Phase.FAILED, "ROLLOUT_SILENT")
    site.seen["node-00"] = OLD
    assert site.look() == ["node-00"]


def test_nobody_begins_while_a_relay_is_being_switched_or_on_trial() -> None:
    """The next one gets its turn; one that was told already is not told again."""
    site = Site(3, Plan(stages=(100,), parallel_max=1))
    site.seen["node-00"] = replace(OLD, busy=True)
    site.seen["node-01"] = replace(OLD, firmware="1.9.0", on_trial=True)
    assert site.look() == ["node-02"]
    site.seen["node-02"] = replace(OLD, busy=True)
    assert site.look() == []


def test_paused_it_begins_and_serves_nobody_and_waits_without_counting() -> None:
    """What installs is followed; resumed, it goes on where it was."""
    site = Site(4, Plan(stages=(100,), parallel_max=2))
    site.look()
    site.rollout.accepted("node-00", OLD.session)
    site.fetch("node-01")
    site.rollout.pause()
    ask = ChunkAsk("1" * 16, "2.0.0", 0, 1_024)
    assert not site.rollout.asked("node-00", ask)
    site.seen["node-01"] = NEW
    assert site.look(QUIET_MS // 1_000) == []
    assert (site.phase("node-00"), site.phase("node-01")) == (Phase.FETCHING, Phase.DONE)
    site.rollout.resume()
    assert site.rollout.asked("node-00", ask)
    assert site.look() == ["node-02"]


def test_answers_that_mean_later_and_a_node_that_knows_no_updates() -> None:
    """A wrong session is no failure; a node of somebody else is left alone."""
    site = Site(1)
    site.look()
    for code in ("WRONG_SESSION", "REPLAYED", "EXPIRED", "CLOCK_UNSET", "UPDATE_TRIAL"):
        site.rollout.refused("node-00", code, "")
        assert site.phase("node-00") is Phase.OFFERED
    site.rollout.refused("node-00", "UNKNOWN_TYPE", "update")
    assert site.end_of("node-00") == (Phase.SKIPPED, "THIRD_PARTY", "")


def test_a_device_that_lost_its_approval_is_left() -> None:
    """Nobody speaks to it any more."""
    site = Site(2)
    site.look()
    site.seen["node-00"] = Seen(approved=False)
    assert site.look() == ["node-01"]
    assert site.end_of("node-00") == (Phase.SKIPPED, "NOT_APPROVED", "")


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (ChunkAsk("", "2.0.0", 0, 1_024), ""),
        (ChunkAsk("", "2.0.0", 2_999, 1), ""),
        (ChunkAsk("", "2.0.0", 2_999, 2), "bytes 2999 to 3001 of 3000"),
        (ChunkAsk("", "2.0.0", 2**53, 1), "of 3000"),
        (ChunkAsk("", "2.0.0", 0, 1_025), "1025 bytes at once"),
        (ChunkAsk("", "2.0.0", 0, 0), "0 bytes at once"),
        (ChunkAsk("", "1.9.0", 0, 1), "it asks for 1.9.0"),
        (ChunkAsk("", "", 0, 1), "no version"),
    ],
)
def test_a_wish_is_judged(ask: ChunkAsk, problem: str) -> None:
    """Version, offset and count; what is wrong is never served."""
    found = ask_problem(IMAGE, ask)
    assert problem in found
    assert bool(found) is bool(problem)
    site = Site(1)
    site.look()
    assert site.rollout.asked("node-00", ask) is not bool(problem)
    assert not site.rollout.asked("node-99", ask)


@pytest.mark.parametrize(
    ("plan", "place"),
    [
        (Plan(stages=()), "stages"),
        (Plan(stages=(10, 10, 100)), "stages"),
        (Plan(stages=(50, 10, 100)), "stages"),
        (Plan(stages=(-1, 100)), "stages"),
        (Plan(stages=(1, 10)), "stages"),
        (Plan(stages=(0, 1, 2, 3, 4, 5, 6, 7, 100)), "stages"),
        (Plan(observe_s=-1), "observe_s"),
        (Plan(failures_max=0), "failures_max"),
        (Plan(parallel_max=0), "parallel_max"),
        (Plan(parallel_max=17), "parallel_max"),
        (Plan(offline_s=0), "offline_s"),
    ],
)
def test_a_plan_that_nobody_means_is_refused(plan: Plan, place: str) -> None:
    """Each number has its bounds, and the stages end with everybody."""
    with pytest.raises(RefusedError) as refused:
        check_plan(plan)
    assert refused.value.place == place
    check_plan(Plan())


def test_only_what_changed_is_kept() -> None:
    """A look at nothing new writes nothing, but for the time that passed."""
    site = Site(3)
    site.look()
    assert [place for place, _ in site.rollout.take_changes() or ()] == [0, 1, 2]
    site.look()
    assert site.rollout.take_changes() is None
    site.rollout.accepted("node-00", OLD.session)
    assert [member.phase for _, member in site.rollout.take_changes() or ()] == [Phase.FETCHING]
    site.look()
    assert len(site.rollout.take_changes(aged=True) or ()) == 3
    assert site.rollout.take_changes(aged=True) is None


def _stop(rollout: Rollout) -> None:
    rollout.stop("enough")


@pytest.mark.parametrize(
    ("before", "act"),
    [(None, Rollout.resume), (Rollout.pause, Rollout.pause)]
    + [(_stop, act) for act in (_stop, Rollout.pause, Rollout.resume)],
)
def test_what_does_not_fit_its_state_is_refused(
    before: Callable[[Rollout], None] | None, act: Callable[[Rollout], None]
) -> None:
    """It is paused when it runs, goes on when it was paused, and once stopped it has ended."""
    site = Site(1)
    if before is not None:
        before(site.rollout)
    with pytest.raises(RefusedError) as refused:
        act(site.rollout)
    assert refused.value.refusal_code == "ROLLOUT_STATE"
