"""SIGHUP and hangs, with real processes: the file is followed or refused, and a hang ends."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import TARIFF, Gateway
from tests.e2e.processes import children_of

pytestmark = pytest.mark.slow

METER = "flat-101"
LATER = "flat-103"


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Iterator[Gateway]:
    """Two of three flats configured, behind `run`, which has a notification socket of its own."""
    site = make_site(meters=3)
    site.prepare()
    lines = meters(site)
    write(site, [line for line in lines if not line.startswith(LATER)])
    address = str(site.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outer:
        outer.bind(address)
        os.environ["NOTIFY_SOCKET"] = address
        try:
            site.start_process("run")
        finally:
            del os.environ["NOTIFY_SOCKET"]
        site.ready()
        site.until(lambda: "READY=1" in said(outer), "readiness")
        site.call("POST", "/tariffs", TARIFF, "tariff-home")
        site.open(METER, "100")
        site.open("flat-102", "100")
        (site.directory / "all.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield site


def said(outer: socket.socket) -> str:
    """All that came at a notification socket."""
    outer.setblocking(False)
    text = ""
    try:
        while True:
            text += outer.recv(4096).decode() + "\n"
    except BlockingIOError:
        return text


def meters(site: Gateway) -> list[str]:
    """The lines of the meters file."""
    return (site.directory / "meters.csv").read_text(encoding="utf-8").splitlines()


def write(site: Gateway, lines: list[str]) -> None:
    """Write the meters file."""
    (site.directory / "meters.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def logged(site: Gateway, event: str) -> list[dict[str, object]]:
    """Log lines of an event."""
    text = (site.directory / "run.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def hang_up(site: Gateway, event: str, *, times: int) -> None:
    """SIGHUP for `run`; wait until both processes said so."""
    before = len(logged(site, event))
    os.kill(site.pid("run"), signal.SIGHUP)
    site.until(lambda: len(logged(site, event)) >= before + times, f"{times} x {event}")


def test_an_added_meter_is_polled_and_nobody_is_disturbed(site: Gateway) -> None:
    """Same processes, same outputs, balances to the watt-hour; the change is named in the log."""
    pids = children_of(site.pid("run"))
    site.load(6_000, METER)
    sequence = site.row(METER).sequence
    write(site, (site.directory / "all.csv").read_text(encoding="utf-8").splitlines())
    hang_up(site, "config.applied", times=2)
    site.until(lambda: site.row(LATER).sequence > 0, "a reading of the new meter")
    site.until(lambda: site.row(METER).sequence > sequence, "readings of the old ones")
    assert children_of(site.pid("run")) == pids
    assert site.row(METER).output_closed is True
    assert not site.cuts(METER)
    assert [line["key"] for line in logged(site, "config.change")] == [f"meters.{LATER}"] * 2
    assert site.events("CONFIG_APPLIED")
    listed = site.call("GET", "/meters")["items"]
    assert [meter["id"] for meter in listed] == [METER, "flat-102", LATER]
    site.rest(METER)
    site.recharge(METER, "0.01", "after-reload")
    assert site.verify()["ok"] is True


def test_limits_follow_and_requests_go_on(site: Gateway) -> None:
    """Policies are followed at once; a cut after a reload does not wait for the ledger's proof."""
    text = site.config.read_text(encoding="utf-8")
    assert '"min_off_s": 2' in text
    site.config.write_text(text.replace('"min_off_s": 2', '"min_off_s": 1'), encoding="utf-8")
    hang_up(site, "config.applied", times=1)
    (change,) = (line for line in logged(site, "config.change") if "min_off_s" in str(line["key"]))
    assert (change["before"], change["after"]) == (2.0, 1.0)
    site.ready()
    site.order("flat-102", "disconnect", "cut-after-reload", "test")
    site.finished_cut("flat-102")
    assert site.row("flat-102").output_closed is False


def test_a_wrong_file_changes_nothing(site: Gateway) -> None:
    """Every problem is told, an event is kept, the old configuration goes on."""
    good = site.config.read_text(encoding="utf-8")
    site.config.write_text(good + "suply: {}\ncreate: maybe\n", encoding="utf-8")
    try:
        hang_up(site, "config.refused", times=2)
    finally:
        site.config.write_text(good, encoding="utf-8")
    told = {str(line["problem"]) for line in logged(site, "config.problem")}
    assert any("unknown key 'suply'" in line for line in told)
    assert any("create: is 'maybe'" in line for line in told)
    site.until(lambda: site.events("CONFIG_REFUSED"), "the event")
    sequence = site.row(METER).sequence
    site.until(lambda: site.row(METER).sequence > sequence, "readings")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"Terrace"', '"Other"', "site.name: Terrace → Other: not while it runs"),
        ('state_dir: "state"', 'state_dir: "other"', "other: not while it runs"),
    ],
)
def test_what_needs_a_restart_is_refused_whole(
    site: Gateway, old: str, new: str, told: str
) -> None:
    """Site and directories are fixed while it runs: named with the next step."""
    good = site.config.read_text(encoding="utf-8")
    assert old in good
    site.config.write_text(good.replace(old, new), encoding="utf-8")
    try:
        hang_up(site, "config.refused", times=2)
    finally:
        site.config.write_text(good, encoding="utf-8")
    assert any(told in str(line["problem"]) for line in logged(site, "config.problem"))
    hang_up(site, "config.unchanged", times=2)


def test_a_meter_with_an_open_account_cannot_be_taken_out(site: Gateway) -> None:
    """A row that is gone asks for decommissioning: refused while somebody has credit there."""
    everything = meters(site)
    write(site, [line for line in everything if not line.startswith("flat-102")])
    hang_up(site, "config.refused", times=2)
    problems = [str(line["problem"]) for line in logged(site, "config.problem")]
    assert any("flat-102 is gone, but account flat-102 is open" in line for line in problems)
    sequence = site.row("flat-102").sequence
    site.until(lambda: site.row("flat-102").sequence > sequence, "readings of that meter")
    write(site, [line for line in everything if not line.startswith(LATER)])
    hang_up(site, "config.applied", times=2)
    site.until(lambda: len(site.live_table().rows()) == 2, "two meters")
    site.ready()


def test_a_control_that_stands_still_polls_again_within_45_s(site: Gateway) -> None:
    """Promise 15 with the real processes and the real watchdog: SIGSTOP for control."""
    before = children_of(site.pid("run"))
    site.expect_new_control()
    began_s = time.monotonic()
    os.kill(before["control"], signal.SIGSTOP)
    site.until(site.control_reads, "polling again", 45.0)
    assert time.monotonic() - began_s < 45
    after = children_of(site.pid("run"))
    assert after["control"] != before["control"]
    assert after["north"] == before["north"]
    assert logged(site, "child.hung")
    assert site.stop("run") == 0
    assert not Path(f"/proc/{after['control']}").exists()
