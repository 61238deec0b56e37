"""What the machine does to the processes: no descriptors, no memory, signals, standstill."""

import os
import resource
import signal
import time
from contextlib import suppress
from itertools import pairwise

import pytest

from gateway.app.clock import seeded
from gateway.core.errors import StoreAwayError
from gateway.north.client import LocalClient
from gateway.store.commands import CommandState
from tests.e2e.books import check_books
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway
from tests.e2e.processes import children_of, is_alive

pytestmark = pytest.mark.slow

CUT, CUT_WITHOUT_NORTH, STEADY = "flat-101", "flat-102", "flat-103"
STANDSTILL_S = 4.0
NO_NEW_FILE = 3  # standard input, output and error are open: no number is left
ENDED_BY_SIGTERM = -signal.SIGTERM


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Three flats; two have little credit."""
    site = make_site(meters=3).start()
    site.open(CUT, "0.040")
    site.open(CUT_WITHOUT_NORTH, "0.024")
    site.open(STEADY, "100")
    return site


def limit(pid: int, name: int, soft: int, hard: int | None = None) -> None:
    """Change a limit of a running process."""
    resource.prlimit(pid, name, (soft, soft if hard is None else hard))


def test_a_stopped_north_delays_neither_polls_nor_cuts(site: Gateway) -> None:
    """SIGSTOP: control reads every second and cuts while nobody answers the office."""
    north = site.pid("north")
    os.kill(north, signal.SIGSTOP)
    try:
        labels = [site.row(STEADY).utc_ms]
        site.load(6_000, CUT_WITHOUT_NORTH, STEADY)
        end_s = time.monotonic() + 5.0
        while time.monotonic() < end_s:
            if (label := site.row(STEADY).utc_ms) != labels[-1]:
                labels.append(label)
            time.sleep(0.02)
        cut = site.finished_cut(CUT_WITHOUT_NORTH)
        assert cut.state is CommandState.VERIFIED
        gaps_ms = [after - before for before, after in pairwise(labels)]
        assert len(gaps_ms) >= 4, gaps_ms
        assert max(gaps_ms) < 2_000, gaps_ms
    finally:
        os.kill(north, signal.SIGCONT)
    site.until(site.answers, "north, awake again")
    site.rest(CUT_WITHOUT_NORTH)


def test_after_a_standstill_every_watt_hour_is_charged_and_nobody_held(site: Gateway) -> None:
    """Control stands still as with a suspended machine: the gap is charged, then cut, no doubt."""
    site.load(6_000, CUT)
    opened_wh = site.row(CUT).energy_wh[0]
    control = site.pid("control")
    os.kill(control, signal.SIGSTOP)
    try:
        time.sleep(STANDSTILL_S)
        site.until(lambda: site.register_wh(CUT)[0] > opened_wh + 6, "consumption past zero")
        assert not site.cuts(CUT)
    finally:
        os.kill(control, signal.SIGCONT)
    assert site.finished_cut(CUT).state is CommandState.VERIFIED
    assert not site.events("IMPLAUSIBLE_ENERGY", CUT)
    site.rest(CUT, STEADY)
    for flat in (CUT, STEADY):
        site.recharge(flat, "0.001", f"after-standstill-{flat}")
        check_books(site, flat, posted=True)


def test_control_without_descriptors_says_so_and_comes_back(site: Gateway) -> None:
    """No file can be opened: meters are away by name, nobody is cut; and back."""
    control = site.pid("control")
    hard = resource.prlimit(control, resource.RLIMIT_NOFILE)[1]
    cuts = len(site.cuts(STEADY))
    limit(control, resource.RLIMIT_NOFILE, NO_NEW_FILE, hard)
    try:
        site.ask("fault", STEADY, kind="drop_out", count=1)  # its link must be made anew
        away = site.until(lambda: site.events("METER_AWAY", STEADY), "the event", 30.0)
        assert away[0].body["code"] == "METER_UNREACHABLE"
        assert "open files" in str(away[0].body["reason"])
        assert is_alive(control)
    finally:
        limit(control, resource.RLIMIT_NOFILE, hard, hard)
    site.until(lambda: site.events("METER_BACK", STEADY), "the meter", 60.0)
    assert site.pid("control") == control
    assert len(site.cuts(STEADY)) == cuts


def test_north_without_descriptors_answers_again_when_there_are_some(site: Gateway) -> None:
    """Callers are turned away, control goes on; no restart is needed."""
    north = site.pid("north")
    hard = resource.prlimit(north, resource.RLIMIT_NOFILE)[1]
    limit(north, resource.RLIMIT_NOFILE, NO_NEW_FILE, hard)
    try:
        with (
            LocalClient(site.paths.socket, timeout_s=1.0) as caller,
            pytest.raises(StoreAwayError),
        ):
            caller.call("GET", "/health")
        sequence = site.row(STEADY).sequence
        site.until(lambda: site.row(STEADY).sequence > sequence + 1, "readings")
        assert is_alive(north)
    finally:
        limit(north, resource.RLIMIT_NOFILE, hard, hard)
    site.until(site.answers, "north", 60.0)


def test_out_of_memory_ends_a_process_and_it_comes_back(make_site: MakeSite) -> None:
    """No page more is given, at last the kernel kills: started anew, the ledger is whole."""
    site = make_site(meters=1)
    site.prepare()
    site.start_process("run")
    site.ready()
    run = site.pid("run")
    for name in ("north", "control"):
        pid = site.until(lambda n=name: children_of(run).get(n), f"{name}")  # type: ignore[misc]
        if name == "control":
            site.expect_new_control()
        limit(pid, resource.RLIMIT_AS, 1)
        starve(site, pid)
        if is_alive(pid):  # it had what it needs: now as the kernel's killer would
            os.kill(pid, signal.SIGKILL)
        site.until(lambda n=name, gone=pid: children_of(run).get(n, gone) != gone, f"new {name}")  # type: ignore[misc]
        site.ready()
    site.verify()
    assert site.stop("run") == 0


def starve(site: Gateway, pid: int) -> None:
    """Give a process without memory work for a second."""
    end_s = time.monotonic() + 1.0
    while is_alive(pid) and time.monotonic() < end_s:
        with suppress(StoreAwayError):
            site.call("GET", "/meters")


@pytest.mark.timeout(240)
def test_sigterm_anywhere_leaves_everything_in_order(make_site: MakeSite) -> None:
    """At any moment of start, work and stop: status 0, or gone before anything was opened."""
    seed = time.time_ns() % 1_000_000
    print(f"sigterm: seed {seed}")  # noqa: T201 - the way back to a failure
    random = seeded(seed)
    site = make_site(meters=2, load_w=3_000).start()
    for flat in ("flat-101", "flat-102"):
        site.open(flat, "100")
    assert site.stop("north") == 0
    assert site.stop("control") == 0
    statuses: list[tuple[str, float, int]] = []
    for turn in range(9):
        name = ("control", "north", "run")[turn % 3]
        log = site.directory / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0
        pid = site.start_process(name)
        after_s = random.uniform(0.0, 1.8)
        time.sleep(after_s)
        if turn % 2:  # an impatient one, once it works: again and again until it is gone
            site.until(lambda log=log, size=before: log.stat().st_size > size, name)  # type: ignore[misc]
            end_s = time.monotonic() + 30.0
            while is_alive(pid) and time.monotonic() < end_s:
                os.kill(pid, signal.SIGTERM)
                time.sleep(0.01)
        status = site.stop(name, 30.0)
        statuses.append((name, round(after_s, 2), status))
        told = log.read_bytes()[before:].decode()
        assert status == 0 or (status == ENDED_BY_SIGTERM and not told), f"{statuses}\n{told}"
        assert "Traceback" not in told, told
    site.verify()
    site.start_process("control")
    site.start_process("north")
    site.ready()
    site.rest("flat-101", "flat-102")
    for flat in ("flat-101", "flat-102"):
        site.recharge(flat, "0.001", f"after-{flat}")
        check_books(site, flat, posted=True)
