"""Wrong vouchers: five in ten minutes lock a point, or an address, for an hour."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.requests import Role, UnlockVouchers
from tests.app.control_site import PRICE_NANO, ControlSite
from tests.app.voucher_site import OTHER, TENANT, Till, wrong

WRONG, LOCKED = "VOUCHER_WRONG", "VOUCHER_LOCKED"


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    """Two flats with an account each; the wall clock is trusted."""
    site = ControlSite(tmp_path)
    site.read(1_000)
    site.read(1_000, index=1)
    site.sweeper.judge()
    await site.open_flat(1_000 * PRICE_NANO)
    await site.open_flat(1_000 * PRICE_NANO, index=1)
    return Till(site)


async def test_five_wrong_tries_lock_and_the_right_voucher_waits(till: Till) -> None:
    """Each refusal says what is left; a locked point takes no right one either, for an hour."""
    token = await till.sell()
    said = [(await till.redeem(wrong(n))).message for n in range(5)]
    assert "4 more wrong tries within 10 min lock it for 60 min" in said[0]
    assert "1 more wrong try" in said[3]
    assert "locked for 60 min now" in said[4]
    refused = await till.redeem(token)
    assert refused.code == LOCKED
    assert "service point flat-1 is locked for another 60 min" in refused.message
    till.site.clock.pass_s(3_599)
    last = await till.redeem(token)
    assert (last.code, "another 1 s" in last.message) == (LOCKED, True)
    till.site.clock.pass_s(1)
    assert await till.code(token) == ""


async def test_a_lock_outlives_a_restart(till: Till) -> None:
    """It is made of rows: nobody guesses on by pulling the plug."""
    token = await till.sell()
    await till.guess(4)
    till.site.restart()
    till.site.sweeper.judge()
    assert await till.guess(2) == [WRONG, LOCKED]
    till.site.restart()
    till.site.sweeper.judge()
    assert await till.code(token) == LOCKED


async def test_slow_mistakes_lock_nothing(till: Till) -> None:
    """Five in more than ten minutes are people, not guesses; and they are forgotten."""
    for _ in range(12):
        assert await till.guess(1) == [WRONG]
        till.site.clock.pass_s(151)
    assert await till.code(await till.sell()) == ""


async def test_tries_while_locked_do_not_prolong_it(till: Till) -> None:
    """A child that goes on typing does not lock the flat for ever."""
    token = await till.sell()
    await till.guess(5)
    till.site.clock.pass_s(3_000)
    assert await till.guess(3) == [LOCKED] * 3
    till.site.clock.pass_s(600)
    assert await till.code(token) == ""


async def test_the_point_is_locked_from_everywhere(till: Till) -> None:
    """Many addresses at one point are one guesser."""
    addresses = [f"10.1.0.{n}" for n in range(6)]
    codes = [await till.code(wrong(n), source=address) for n, address in enumerate(addresses)]
    assert codes == [*[WRONG] * 5, LOCKED]


async def test_an_address_is_locked_at_every_point(till: Till) -> None:
    """One address at many points is one guesser; another address goes on."""
    token = await till.sell(point="flat-2")
    assert await till.guess(3) == [WRONG] * 3
    assert await till.guess(2, "flat-2") == [WRONG] * 2
    refused = await till.redeem(token, "flat-2")
    assert (refused.code, f"address {TENANT}" in refused.message) == (LOCKED, True)
    assert await till.code(token, "flat-2", source=OTHER) == ""


async def test_an_ipv6_site_is_one_address(till: Till) -> None:
    """A tenant has a /64 to himself: its 2^64 addresses have five tries together."""
    for n in range(5):
        await till.code(wrong(n), ("flat-1", "flat-2")[n % 2], source=f"2001:db8::{n + 1:x}")
    assert await till.code(wrong(9), "flat-2", source="2001:db8::ffff") == LOCKED
    assert await till.code(wrong(9), "flat-2", source="2001:db8:0:1::1") == WRONG


async def test_a_form_that_is_no_voucher_is_no_try(till: Till) -> None:
    """19 digits cannot be a guess that succeeds."""
    codes = [await till.code("1845 1462") for _ in range(6)]
    assert codes == ["VOUCHER_FORMAT"] * 6
    assert await till.guess(1) == [WRONG]


async def test_a_manager_unlocks_with_a_reason(till: Till) -> None:
    """A point, an address or both; nobody else, and nothing where nothing stands."""
    token = await till.sell()
    await till.guess(5)
    assert await till.unlock(point="flat-1") == ""
    assert await till.code(token) == LOCKED
    assert await till.unlock(address=TENANT) == ""
    assert await till.code(token) == ""
    assert await till.unlock(point="flat-1", address=TENANT) == "VOUCHER_NOT_LOCKED"
    assert await till.unlock() == "REQUEST_FIELD"
    assert await till.unlock(point="nowhere") == "POINT_UNKNOWN"
    assert (await till.ask(UnlockVouchers("", "flat-1"))).code == "REASON_MISSING"
    forbidden = await till.ask(UnlockVouchers("please", "flat-1"), role=Role.OPERATOR)
    assert forbidden.code == "FORBIDDEN"
    # Five more lock again.
    assert await till.guess(6) == [*[WRONG] * 5, LOCKED]


async def test_many_guesses_at_once_get_five_answers(till: Till) -> None:
    """What comes together is judged one after the other: none slips past the count."""
    codes = await asyncio.gather(
        *(till.code(wrong(n), ("flat-1", "flat-2")[n % 2]) for n in range(30))
    )
    assert sorted(codes) == [*[LOCKED] * 25, *[WRONG] * 5]
