"""`run`: both processes under one supervisor, restarted when they die, ended in order."""

import time

import pytest

from tests.e2e.books import advance_wh, check_books
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import TARIFF, Gateway
from tests.e2e.processes import children_of, is_alive, kill_now

pytestmark = pytest.mark.slow

METER = "flat-101"
STOP_S = 10.0


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Three flats behind `run`; the first has an account and draws power all the time."""
    site = make_site(meters=3)
    site.prepare()
    site.start_process("run")
    site.ready()
    site.call("POST", "/tariffs", TARIFF, "tariff-home")
    site.open(METER, "100")
    site.load(6_000, METER)
    return site


def both(site: Gateway) -> dict[str, int]:
    """Process ids of control and north, once both run."""
    return site.until(
        lambda: found if len(found := children_of(site.pid("run"))) == 2 else None, "both processes"
    )


@pytest.mark.parametrize("name", ["control", "north"])
def test_a_killed_process_comes_back_by_itself(site: Gateway, name: str) -> None:
    """The supervisor starts what died anew; the other one goes on undisturbed."""
    before = both(site)
    settled = advance_wh(site.transactions(METER))
    if name == "control":
        site.expect_new_control()
    kill_now(before[name])
    after = site.until(
        lambda: found if (found := both(site))[name] != before[name] else None, f"another {name}"
    )
    other = ({"control", "north"} - {name}).pop()
    assert after[other] == before[other]
    site.ready()
    used_wh = site.row(METER).energy_wh[0]
    site.until(lambda: site.row(METER).energy_wh[0] > used_wh, "consumption")
    site.recharge(METER, "0.01", f"after-{name}")
    site.until(lambda: advance_wh(site.transactions(METER)) > settled, "the posting")
    check_books(site, METER, posted=False)


def test_sigterm_ends_everything_and_loses_nothing(site: Gateway) -> None:
    """Exit 0 within 10 s, nobody left; sequences go on after a start, nothing is charged twice."""
    site.ready()
    children = both(site)
    sequence = site.row(METER).sequence
    began_s = time.monotonic()
    assert site.stop("run", STOP_S) == 0
    assert time.monotonic() - began_s < STOP_S
    for name, pid in children.items():
        assert not is_alive(pid), f"{name} is still there"
    last = site.row(METER)
    assert last.sequence >= sequence
    before = site.transactions(METER)

    site.start_process("run")
    site.ready()
    assert site.row(METER).sequence > last.sequence
    assert site.row(METER).energy_wh >= last.energy_wh
    site.rest(METER)
    site.recharge(METER, "0.01", "after-stop")
    after = site.transactions(METER)
    assert after[: len(before)] == before
    check_books(site, METER, posted=True)
    site.verify()


def test_nobody_outlives_a_killed_supervisor(site: Gateway) -> None:
    """SIGKILL for `run`: control and north end too, and the next start finds their files free."""
    children = both(site)
    site.kill("run")
    for name, pid in children.items():
        site.until(lambda pid=pid: not is_alive(pid), f"the end of {name}", 10.0)  # type: ignore[misc]
    site.start_process("run")
    site.ready()
    site.verify()
