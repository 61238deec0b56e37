"""The proof of a node's relay: whatever fails in between, supply is asked for again."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import pytest

from gateway.app.config import NodeConfig, load_config
from gateway.app.placing import service
from gateway.app.placing.service import CLOSE_WAITS_S, PROOF_REASON, Answer, Servant, Served, Site
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.north.client import LocalClient

AWAY = StoreAwayError("north did not answer")
CONFIG = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
south: {mqtt: {host: 127.0.0.1}}
meters: [{id: kiosk-1, model: pzem-node}]
"""


class North:
    """One point as north shows it. `fails`: what each call of an action raises, in turn."""

    def __init__(self, **fails: list[Exception | None]) -> None:
        self.fails = fails
        self.reasons: list[str] = []
        self.commands: list[Answer] = []
        self.asked: list[str] = []
        self.keys: set[str] = set()
        # The answer of this action is lost after it was carried out.
        self.lost = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def call(
        self,
        method: str,
        path: str,
        json: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> Answer:
        """As LocalClient."""
        if method == "GET" and "/commands" in path:
            return {"items": list(self.commands)}
        if method == "GET":
            return {"supply": {"block_reasons": self.reasons, "output_closed": not self.reasons}}
        assert json is not None
        assert key is not None
        action = str(json["action"])
        self.asked.append(action)
        self.fail(action)
        if key not in self.keys:
            self.keys.add(key)
            self.switch(off=action == "disconnect")
        if self.lost == action:
            self.lost = ""
            raise AWAY
        return self.commands[0]

    def fail(self, what: str) -> None:
        """Raise what is due."""
        due = self.fails.get(what) or [None]
        if (error := due.pop(0)) is not None:
            raise error

    def switch(self, *, off: bool, state: str = "verified", reason: str = PROOF_REASON) -> None:
        """Carry a switch out."""
        if not off and not self.reasons:
            raise RefusedError("NOT_DISCONNECTED", "no disconnection stands here for MANUAL")
        self.reasons = ["MANUAL"] if off else []
        command: Answer = {"action": "open" if off else "close", "reason": reason, "state": state}
        command |= {"issued_at": "2026-11-28T00:00:00Z", "verified_by": ["output"]}
        self.commands.insert(0, command)


class Point:
    """The servant of one node at a north."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.monkeypatch = place, monkeypatch
        (place / "config.yaml").write_text(CONFIG)
        self.node: NodeConfig = load_config(place / "config.yaml").nodes[0]
        self.slept: list[float] = []

    def serve(self, north: North, quality: str = "good", *, proof: bool = True) -> Served:
        """What becomes of it."""

        def follow(_client: LocalClient, _meter: str, command: Answer, on: bool) -> Answer:
            north.fail("follow_on" if on else "follow_off")
            return command

        self.monkeypatch.setattr(service, "LocalClient", lambda _socket: cast("LocalClient", north))
        site = Site(
            meters={"kiosk-1": {"commissioned": True, "quality": quality}},
            devices={"kiosk-1": "node-000000000001"},
            since={"kiosk-1": "2026-11-27T00:00:00Z"},
            accounts=frozenset({self.node.service_point_id}),
        )
        servant = Servant(
            self.place,
            site,
            prove=follow if proof else None,
            say=lambda _: None,
            sleep=self.slept.append,
        )
        (served,) = servant.run([self.node], lambda: None)
        return served


@pytest.fixture
def point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Point:
    """A node in service with an account."""
    return Point(tmp_path, monkeypatch)


def test_a_relay_is_proved(point: Point) -> None:
    """Off, on, each asked for once; the second time nothing."""
    north = North()
    served = point.serve(north)
    assert (served.proof, served.problem) == ("output", "")
    assert north.asked == ["disconnect", "reconnect"]
    assert point.serve(north).proof == "before"
    assert north.asked == ["disconnect", "reconnect"]


@pytest.mark.parametrize("error", [AWAY, RefusedError("INTERNAL", "a fault"), OSError("odd")])
def test_what_cannot_be_followed_is_closed_all_the_same(point: Point, error: Exception) -> None:
    """North away, or anything else, right after the disconnection was accepted."""
    north = North(follow_off=[error])
    if isinstance(error, OSError):
        with pytest.raises(OSError, match="odd"):
            point.serve(north)
    else:
        assert str(error) in point.serve(north).problem
    assert (north.asked, north.reasons) == (["disconnect", "reconnect"], [])


def test_a_disconnection_whose_answer_is_lost_is_taken_back(point: Point) -> None:
    """It may have been taken; where it was not, there is nothing to close."""
    north = North()
    north.lost = "disconnect"
    assert point.serve(north).problem == "north did not answer: run this again"
    assert (north.asked, north.reasons) == (["disconnect", "reconnect"], [])
    north = North(disconnect=[AWAY])
    assert point.serve(north).problem == "north did not answer: run this again"
    assert (north.asked, north.commands) == (["disconnect", "reconnect"], [])
    north = North(disconnect=[RefusedError("FORBIDDEN", "not yours")])
    assert point.serve(north).problem == "FORBIDDEN not yours"
    assert north.asked == ["disconnect"]


def test_the_reconnection_is_tried_again_under_one_key(point: Point) -> None:
    """Not taken, taken with its answer lost, taken and not followed: one switch."""
    north = North(reconnect=[AWAY], follow_on=[AWAY])
    north.lost = "reconnect"
    assert point.serve(north).problem == ""
    assert north.asked == ["disconnect"] + ["reconnect"] * 4
    assert [command["action"] for command in north.commands] == ["close", "open"]
    assert tuple(point.slept) == CLOSE_WAITS_S[:4]


def test_who_is_left_without_supply_is_named_with_what_to_do(point: Point) -> None:
    """All tries fail, bounded; the next run closes it although no reading is good."""
    north = North(reconnect=[AWAY] * len(CLOSE_WAITS_S))
    served = point.serve(north)
    assert served.proof == ""
    assert served.problem == (
        "may be WITHOUT SUPPLY: opened for its proof and not seen to be closed (north did not "
        "answer): run this again with --proof, or: meter switch kiosk-1 on"
    )
    assert north.reasons == ["MANUAL"]
    assert len(north.asked) == 1 + len(CLOSE_WAITS_S)
    assert "no good reading" in point.serve(north, "stale", proof=False).problem
    again = point.serve(north, "stale")
    assert (again.proof, again.problem, north.reasons) == ("before, output", "", [])
    assert north.asked[-2:] == ["reconnect"] * 2


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_an_opening_that_nobody_saw_is_closed_too(point: Point, state: str) -> None:
    """And is no proof."""
    north = North()
    north.switch(off=True, state=state)
    assert point.serve(north, "stale").problem == f"was not seen to be opened: {state}"
    assert (north.asked, north.reasons) == (["reconnect"], [])


def test_what_others_opened_stays_open(point: Point) -> None:
    """Another's reason, ours with another beside it, ours that was ended: readings first."""
    other, both, ended = North(), North(), North()
    other.switch(off=True, reason="work on the line")
    both.switch(off=True)
    both.reasons.append("CREDIT")
    ended.switch(off=True)
    ended.switch(off=False)
    for north in (other, both, ended):
        assert "no good reading" in point.serve(north, "stale").problem
        assert north.asked == []
    for north in (other, both):
        assert "supply is off (MANUAL" in point.serve(north).problem
        assert north.asked == []
