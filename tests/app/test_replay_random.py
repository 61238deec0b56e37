"""Sites on which anything may happen: whatever control posts, the replay computes again."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from gateway.core.requests import (
    AddDebt,
    AddPoint,
    Body,
    CancelVoucher,
    ChangeTariff,
    CloseAccount,
    CloseShift,
    ConfigureAccount,
    InvokeEmergency,
    IssueVoucher,
    OpenAccount,
    OpenShift,
    Recharge,
    RedeemVoucher,
    ReleaseQuarantine,
    RemovePoint,
    ReverseTransaction,
    Transfer,
    WriteOff,
)
from gateway.store.commands import find_outcome
from gateway.store.ledger import read_transactions
from gateway.store.replay import replay_ledger
from tests.app.busy_site import HOUR_S, NANO, BusySite
from tests.app.control_site import ControlSite

pytestmark = pytest.mark.slow

STEPS = 220
POINTS = ("flat-1", "flat-2")
LOANS = (
    '{"emergency": {"limit": "30.00", "threshold": "500.00"}}',
    '{"emergency": {"limit": "55.00", "threshold": "20.00", "automatic": true}}',
    '{"disablement_threshold": "-15.00"}',
    "{}",
)


class RandomSite(BusySite):
    """People who ask for whatever comes to their mind; most of it is refused."""

    def __init__(self, site: ControlSite, seed: str) -> None:
        super().__init__(site)
        self.chance = Random(seed)
        self._tokens: list[tuple[str, str]] = []
        self._recharges: list[int] = []
        self._opened = 0

    async def step(self) -> None:
        """One thing happens, most often that time passes and energy is used."""
        chance = self.chance
        if chance.random() < 0.4:
            seconds = chance.choice((30, HOUR_S, 5 * HOUR_S, 26 * HOUR_S, 80 * HOUR_S))
            wh = chance.randrange(1 + min(seconds, 20_000))
            fed_wh = chance.choice((0, 0, wh // 3, 30_000))
            await self.use(wh, seconds, index=chance.randrange(2), fed_wh=fed_wh)
            return
        if chance.random() < 0.05:
            self.site.restart(boot=chance.choice((None, f"boot-{chance.random()}")))
            await self.use(0, 5)
            return
        await self.wish(self.any_wish())
        if chance.random() < 0.3:
            await self.site.books.post([0, 1])

    async def wish(self, body: Body) -> None:
        """Ask for something, be it refused."""
        await self.use(0, 1)
        self._number += 1
        key = f"wish-{self._number}"
        await self.site.do(body, key=key)
        outcome = find_outcome(self.site.file.connection, key)
        assert outcome is not None
        if outcome.code == "" and isinstance(body, IssueVoucher):
            self._tokens.append((body.service_point_id, str(outcome.result["token"])))
        if outcome.code == "" and isinstance(body, Recharge):
            self._recharges.append(int(str(outcome.result["transaction_seq"])))

    def any_wish(self) -> Body:
        """Something that somebody asks for."""
        chance = self.chance
        account, other = chance.choice(self._accounts()), chance.choice(self._accounts())
        point, nano = chance.choice(POINTS), chance.randrange(1, 30_000) * 10_000_000
        debt = f"d{chance.randrange(4)}"
        terms = chance.choice(LOANS)
        tariff = chance.choice(("home", "shop"))
        kind = chance.choice(("payment", "time"))
        cap = chance.choice((0, 12 * NANO))
        due = {"share_ppm": 250_000, "daily_nano": 7 * NANO + 1, "weekly_cap_nano": cap}
        seq = chance.choice(self._recharges or [1])
        if chance.random() < 0.1:
            self._opened += 1
        wishes: tuple[Body, ...] = (
            Recharge(account, nano, chance.choice(("counter", "card"))),
            Recharge(account, nano, "counter"),
            Transfer(account, other, nano // 3 or 1, "family"),
            AddDebt(account, debt, kind, nano, "arrears", **due),
            AddDebt(account, debt, kind, nano, "arrears", **due),
            WriteOff(account, chance.choice((debt, "wallet", "accumulated")), nano // 9 or 1, "x"),
            ConfigureAccount(account, terms),
            InvokeEmergency(account),
            InvokeEmergency(account),
            ReverseTransaction(seq, "bounced"),
            IssueVoucher(point, nano, "counter"),
            RedeemVoucher(*chance.choice(self._tokens or [(point, "0" * 20)])),
            CancelVoucher(point, chance.randint(1, 3), "wrong"),
            ChangeTariff(point, tariff),
            ReleaseQuarantine(point, chance.random() < 0.5, "looked at"),
            AddPoint(account, point, tariff),
            RemovePoint(point),
            OpenAccount(f"new-{self._opened}", point, tariff, opening_balance_nano=nano),
            OpenAccount(f"new-{self._opened}", point, tariff, terms=terms),
            CloseAccount(account, "moves out", "counter"),
            OpenShift("till-1", chance.choice((0, 10 * NANO))),
            CloseShift(chance.randint(1, 4), ("card", "counter"), (nano, nano)),
        )
        return chance.choice(wishes)

    def _accounts(self) -> list[str]:
        return sorted(self.site.desk.accounts) or ["nobody"]


@pytest.mark.parametrize("seed", [0, 110])
def test_whatever_happens_follows(tmp_path: Path, seed: int) -> None:
    """Random requests, use, restarts and days: no difference, and nothing left out but debts whose
    bearer hung on use that was not posted."""
    site = ControlSite(tmp_path, export="credited")

    async def live() -> None:
        world = RandomSite(site, f"replay {seed}")
        await world.begin()
        for _ in range(STEPS):
            await world.step()
        await site.books.post([0, 1])

    try:
        asyncio.run(live())
        assert site.proof().problems == ()
        report = replay_ledger(site.file.connection)
        assert [one.words for one in report.differences] == []
        assert report.balances == {}
        kinds = {
            transaction.kind
            for transaction, _ in read_transactions(site.file.connection, 1, report.transactions)
        }
        assert len(kinds) >= 8, kinds
        assert sum(report.unproved.values()) * 20 <= report.transactions
    finally:
        site.crash()
