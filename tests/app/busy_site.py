"""A small site on which something of every kind happens, for proofs of the whole ledger."""

import json
from collections.abc import Mapping

from gateway.core.requests import (
    AddDebt,
    AddPoint,
    Body,
    CancelVoucher,
    ChangeTariff,
    CloseAccount,
    CloseShift,
    CommissionPoint,
    ConfigureAccount,
    InvokeEmergency,
    IssueVoucher,
    OpenAccount,
    OpenShift,
    PublishTariff,
    Recharge,
    RedeemVoucher,
    ReleaseQuarantine,
    RemovePoint,
    ReplaceMeter,
    ReverseTransaction,
    Role,
    Transfer,
    WriteOff,
)
from gateway.store.commands import find_outcome
from tests.app.control_site import ControlSite

NANO = 10**9
HOUR_S, DAY_S = 3_600, 86_400

HOME: Mapping[str, object] = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01T00:00:00+05:30",
    "grid": {
        "bands": {
            "peak": {"price": "9.123457", "when": [{"from": "18:00", "to": "22:00"}]},
            "rest": {
                "blocks": [
                    {"upto_kwh": 10, "price": "3.333333"},
                    {"upto_kwh": 30, "price": "4.50"},
                    {"price": "6.00"},
                ]
            },
        }
    },
    "generator": {"price": "25.00"},
    "fixed": {"amount": "50.00", "collect": "daily"},
    "feed_in": {"price": "3.100001"},
    "minimum": {"amount": "400.00"},
    "rebates": [{"name": "Lifeline", "per_kwh": "1.00", "upto_kwh": 5, "source": "grid"}],
    "taxes": [
        {"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed"]},
        {"name": "Levy", "rate_percent": "3", "on_recharge": True},
    ],
}
HOME_2 = {
    **HOME,
    "effective_from": "2027-01-20T10:00:00+05:30",
    "grid": {"price": "4.25"},
    "feed_in": {"price": "2.50"},
    "fixed": {"amount": "55.00", "collect": "daily"},
}
SHOP: Mapping[str, object] = {
    "id": "shop",
    "name": "Shop",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01T00:00:00+05:30",
    "grid": {"price": "7.00"},
    "generator": {"price": "20.00"},
    "fixed": {"amount": "90.00", "collect": "first_recharge"},
}
LOAN = '{"emergency": {"limit": "40.00", "threshold": "10.00"}}'


class BusySite:
    """Two flats and what people ask for."""

    def __init__(self, site: ControlSite) -> None:
        self.site = site
        self._number = 0
        self._registers_wh = [1_000, 5_000]
        self._export_wh = [40, 900]

    async def ask(self, body: Body, role: Role = Role.MANAGER) -> Mapping[str, object]:
        """Carry out a request; what it gave."""
        self._number += 1
        key = f"busy-{self._number}"
        await self.site.do(body, role, key)
        outcome = find_outcome(self.site.file.connection, key)
        assert outcome is not None
        assert outcome.code == "", outcome
        return outcome.result

    async def use(self, wh: int, seconds: float, *, index: int = 0, fed_wh: int = 0) -> None:
        """Draw energy for a time, or feed it in, both meters being read, then sweep."""
        self.site.clock.pass_s(seconds)
        self._registers_wh[index] += wh
        self._export_wh[index] += fed_wh
        for each, registers_wh in enumerate(self._registers_wh):
            self.site.read(registers_wh, index=each, export_wh=self._export_wh[each])
        await self.site.sweeper.sweep()

    async def begin(self) -> None:
        """Tariffs, and an account on each flat."""
        await self.use(0, 1)
        await self.ask(PublishTariff(json.dumps(HOME)))
        await self.ask(PublishTariff(json.dumps(SHOP)))
        await self.ask(OpenAccount("asha", "flat-1", "home", opening_balance_nano=1_500 * NANO))
        await self.ask(OpenAccount("bela", "flat-2", "shop"))
        for point in ("flat-1", "flat-2"):
            await self.ask(CommissionPoint(point))
        assert "draft" not in await self.ask(PublishTariff(json.dumps(HOME_2)))

    async def days(self) -> None:
        """Use over blocks, bands, a new version and a new month, with money in between."""
        await self.ask(OpenShift("till-1", 100 * NANO))
        await self.ask(Recharge("bela", 500 * NANO, "counter", "R-1"))
        await self.use(7_001, 3 * HOUR_S)
        debt = AddDebt("asha", "old", "payment", 30 * NANO, "arrears", share_ppm=200_000)
        await self.ask(debt)
        cap = {"daily_nano": 10 * NANO, "weekly_cap_nano": 15 * NANO}
        await self.ask(AddDebt("asha", "loan", "time", 90 * NANO, "cooker", **cap))
        await self.ask(AddDebt("asha", "gift", "payment", 20 * NANO, "arrears", share_ppm=1))
        paid = await self.ask(Recharge("asha", 100 * NANO, "counter", "R-2"))
        await self.ask(Recharge("asha", 41 * NANO, "card", "R-3"))
        await self.use(33_333, 6 * HOUR_S)
        seq = int(str(paid["transaction_seq"]))
        await self.ask(ReverseTransaction(seq, "bounced"))
        await self.ask(WriteOff("asha", "gift", 5 * NANO, "goodwill"))
        count = CloseShift(1, ("card", "counter"), (40 * NANO, 601 * NANO), "counted twice")
        await self.ask(count)
        for _ in range(18):
            await self.use(2_003, DAY_S, fed_wh=811)
            await self.use(97, 60, index=1, fed_wh=13)

    async def vouchers(self) -> None:
        """One is redeemed, one taken back, one waits."""
        sale = IssueVoucher("flat-1", 60 * NANO, "counter", "V-1")
        sold = await self.ask(sale)
        await self.ask(RedeemVoucher("flat-1", str(sold["token"])))
        back = await self.ask(IssueVoucher("flat-2", 20 * NANO, "counter", "V-2"))
        await self.ask(CancelVoucher("flat-2", int(str(back["counter"])), "wrong flat"))
        await self.ask(IssueVoucher("flat-2", 30 * NANO, "counter", "V-3"))

    async def credit(self) -> None:
        """A transfer into a debt, emergency credit until it is used, and its repayment."""
        await self.ask(Transfer("bela", "asha", 50 * NANO, "family"))
        await self.ask(ConfigureAccount("asha", LOAN))
        left_nano = self.site.engine.points[0].available_nano
        await self.use(max(0, left_nano // 4_250_000 - 2_000), 2 * DAY_S)
        await self.ask(InvokeEmergency("asha"))
        await self.use(4_000, HOUR_S)
        await self.site.books.post([0, 1])
        await self.use(10, DAY_S)
        await self.ask(Recharge("asha", 200 * NANO, "counter", "R-4"))

    async def moves(self) -> None:
        """Another point, another tariff, a point given up, and an account that ends."""
        await self.ask(CloseAccount("bela", "moves out", "counter"))
        await self.use(50, 60, index=1)
        await self.ask(AddPoint("asha", "flat-2", "home"))
        await self.use(1_500, HOUR_S, index=1)
        await self.ask(ChangeTariff("flat-2", "shop"))
        await self.use(1_501, HOUR_S, index=1)
        await self.ask(ChangeTariff("flat-2", "home"))
        await self.use(1_499, HOUR_S, index=1)
        await self.ask(RemovePoint("flat-2"))
        await self.use(70, 60, index=1)
        await self.ask(AddPoint("asha", "flat-2", "home"))
        await self.use(61, 60, index=1)

    async def sun(self) -> None:
        """Feed-in alone, a jump of it that is released, and one that is not."""
        await self.use(0, HOUR_S, fed_wh=5_003)
        await self.site.books.post([0])
        for accept in (True, False):
            await self.use(1, 1, fed_wh=2_000)
            await self.use(1, 1)
            await self.ask(ReleaseQuarantine("flat-1", accept, "looked at the inverter"))
            await self.use(1, 60, fed_wh=7)
        await self.use(1, 60, index=1, fed_wh=9)
        await self.ask(ReplaceMeter("flat-2", self._closing(), (12, 0), "broken display"))
        self._registers_wh[1], self._export_wh[1] = 12, 3
        await self.use(5, 60, index=1)
        await self.use(5, 60, index=1, fed_wh=11)

    def _closing(self) -> tuple[int, int]:
        return self._registers_wh[1] + 2, 0

    async def live(self) -> None:
        """All of it."""
        await self.begin()
        await self.days()
        await self.vouchers()
        await self.credit()
        await self.moves()
        await self.sun()
        await self.site.books.post([0, 1])
