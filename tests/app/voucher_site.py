"""A site that sells vouchers: what tests of them share."""

from gateway.app.control.voucher_book import VoucherTerms
from gateway.app.paths import paths_of
from gateway.app.voucher_key import load_voucher_keys
from gateway.core.requests import (
    Body,
    CancelVoucher,
    IssueVoucher,
    Outcome,
    RedeemVoucher,
    Request,
    Role,
    UnlockVouchers,
)
from gateway.core.voucher import Voucher, encode, point_key
from gateway.store.commands import find_outcome
from gateway.store.ledger import read_balance
from tests.app.control_site import ControlSite

RUPEE = 10**9
PAISA = RUPEE // 100
TENANT, OTHER = "10.0.0.7", "10.0.0.8"


class Till:
    """Sells and takes vouchers at a site, each request under a key of its own."""

    def __init__(self, site: ControlSite) -> None:
        self.site = site
        self._number = 0

    async def ask(
        self,
        body: Body,
        role: Role = Role.MANAGER,
        *,
        source: str = TENANT,
        key: str = "",
        created_utc_ms: int | None = None,
    ) -> Outcome:
        """Execute a request; what became of it."""
        self._number += 1
        key = key or f"till-{self._number}"
        created = self.site.clock.utc_ms() if created_utc_ms is None else created_utc_ms
        request = Request(key, body, "eva", role, source, created)
        await self.site.executor.execute(request)
        outcome = find_outcome(self.site.file.connection, key)
        assert outcome is not None
        return outcome

    async def sell(self, amount_nano: int = 500 * RUPEE, point: str = "flat-1") -> str:
        """The digits of a voucher that is sold now."""
        sold = await self.ask(
            IssueVoucher(point, amount_nano, "counter", "R-1"), role=Role.OPERATOR
        )
        assert sold.code == "", sold
        return str(sold.result["token"])

    async def redeem(self, token: str, point: str = "flat-1", *, source: str = TENANT) -> Outcome:
        """Try 20 digits at a point."""
        return await self.ask(RedeemVoucher(point, token), role=Role.TENANT, source=source)

    async def code(self, token: str, point: str = "flat-1", *, source: str = TENANT) -> str:
        """The code with which these digits are refused; empty when they are taken."""
        return (await self.redeem(token, point, source=source)).code

    async def cancel(self, counter: int, reason: str = "wrong amount") -> str:
        """The code with which a taking back is refused; empty when it is done."""
        return (await self.ask(CancelVoucher("flat-1", counter, reason))).code

    async def unlock(self, *, point: str = "", address: str = "") -> str:
        """The code with which an unlocking is refused; empty when it is done."""
        return (await self.ask(UnlockVouchers("his slip was torn", point, address))).code

    async def guess(self, times: int, point: str = "flat-1", *, source: str = TENANT) -> list[str]:
        """Wrong digits, so many times."""
        return [await self.code(wrong(n), point, source=source) for n in range(times)]

    def balance(self, ledger_account: str) -> int:
        """What a ledger account holds."""
        return read_balance(self.site.file.connection, ledger_account)

    def terms(self) -> VoucherTerms:
        """The site's present terms."""
        control = paths_of(self.site.config).control_dir
        return VoucherTerms(load_voucher_keys(control), PAISA)

    def elsewhere(self, counter: int, units: int = 20_000, point: str = "flat-1") -> str:
        """A voucher that another machine with the same key sells."""
        key = point_key(self.terms().keys.current, point)
        return encode(key, point, Voucher(counter, units, units))


def wrong(number: int) -> str:
    """Digits that look like a voucher and are none."""
    return f"{18_446_744_073_709_551_616 + 4_503_599_627_370_496 + (9 << 32) + number:020d}"


def off_by_one(token: str) -> str:
    """A token with its last digit mistyped."""
    return token[:-1] + str((int(token[-1]) + 1) % 10)
