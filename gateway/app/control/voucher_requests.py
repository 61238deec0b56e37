"""Requests about vouchers: sell, redeem, take back, unlock."""

from collections.abc import Mapping
from typing import Final

from gateway.app.control.crediting import commit_credit, credited_entries
from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.app.control.voucher_book import (
    Credit,
    Holder,
    VoucherBook,
    VoucherTerms,
    WrongVoucherError,
    redemption_of,
)
from gateway.core import requests as wishes
from gateway.core.address import site_of
from gateway.core.errors import RefusedError
from gateway.core.requests import OutcomeStatus, Request
from gateway.store.vouchers import subject_of_address, subject_of_point

# After a refused voucher further ones at that point hold no cut back for so long: else somebody
# who has run out could put the cut off for ever with used ones.
NO_HOLD_NS: Final = 60_000_000_000


class VoucherRequests:
    """Carries out the requests about vouchers, one at a time (the executor sees to that)."""

    def __init__(self, desk: Desk, terms: VoucherTerms) -> None:
        self._desk = desk
        self._book = VoucherBook(terms, desk.currency, desk.till)
        self._refused_ns: dict[int, int] = {}

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.IssueVoucher: self.issue,
            wishes.RedeemVoucher: self.redeem,
            wishes.CancelVoucher: self.cancel,
            wishes.UnlockVouchers: self.unlock,
        }

    async def issue(self, body: wishes.IssueVoucher, request: Request) -> None:
        """Sell a voucher. Refuses POINT_UNKNOWN, ACCOUNT_UNKNOWN, AMOUNT_RANGE, VOUCHER_UNIT."""
        desk = self._desk
        _, holder = self._holder(body.service_point_id)
        desk.check_amount(body.amount_nano, "amount")
        self._book.units(body.amount_nano)
        utc_ms = desk.books.label()
        await desk.commit(
            request,
            lambda connection: self._book.issue(connection, body, request, holder, utc_ms),
        )

    async def redeem(self, body: wishes.RedeemVoucher, request: Request) -> None:
        """Credit an account with a voucher; wrong digits are counted.

        Refuses POINT_UNKNOWN, ACCOUNT_UNKNOWN and what `VoucherBook.judge` refuses.
        """
        desk, book = self._desk, self._book
        index, holder = self._holder(body.service_point_id)
        utc_ms = desk.books.label()
        try:
            # A look first: what is refused needs no posting, and the amount decides where the
            # credit goes. The credit judges again, in its own transaction.
            credit = await desk.books.commit(
                lambda connection: book.judge(connection, body, request, holder, utc_ms),
                may_refuse=True,
            )
            await self._credit(body, request, holder, credit)
        except WrongVoucherError as wrong:
            self._refused_ns[index] = desk.clock.mono_ns()
            await self._close_wrong(wrong, holder.service_point_id, request, utc_ms)
        except RefusedError:
            self._refused_ns[index] = desk.clock.mono_ns()
            raise

    async def cancel(self, body: wishes.CancelVoucher, request: Request) -> None:
        """Take a voucher back that was sold here and not redeemed.

        Refuses REASON_MISSING, VOUCHER_UNKNOWN, VOUCHER_REDEEMED, VOUCHER_CANCELLED.
        """
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why the voucher is taken back", "reason")
        utc_ms = self._desk.books.label()
        await self._desk.commit(
            request, lambda connection: self._book.cancel(connection, body, request, utc_ms)
        )

    async def unlock(self, body: wishes.UnlockVouchers, request: Request) -> None:
        """End a lock. Refuses REASON_MISSING, REQUEST_FIELD, POINT_UNKNOWN, VOUCHER_NOT_LOCKED."""
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why it is unlocked", "reason")
        subjects: list[str] = []
        if body.point_id:
            self._refused_ns.pop(self._desk.point(body.point_id), None)
            subjects.append(subject_of_point(body.point_id))
        if body.address:
            subjects.append(subject_of_address(site_of(body.address)))
        if not subjects:
            raise RefusedError("REQUEST_FIELD", "name a service point or an address", "point_id")
        utc_ms = self._desk.books.label()
        await self._desk.commit(
            request,
            lambda connection: self._book.unlock(
                connection, subjects, request, body.reason, utc_ms
            ),
        )

    def may_lift(self, body: wishes.RedeemVoucher) -> int | None:
        """Index of the point whose balance this voucher may lift; None where none is believed."""
        index = self._desk.index_of_point(body.service_point_id)
        refused_ns = None if index is None else self._refused_ns.get(index)
        if refused_ns is not None and self._desk.clock.mono_ns() - refused_ns < NO_HOLD_NS:
            return None
        return index

    async def _credit(
        self, body: wishes.RedeemVoucher, request: Request, holder: Holder, credit: Credit
    ) -> None:
        desk, book = self._desk, self._book
        account = desk.account(holder.account_id)
        desk.books.post(desk.indices_of(holder.account_id))
        utc_ms = desk.books.label()
        split = credited_entries(desk, account, credit.amount_nano)
        transaction = redemption_of(credit, holder, split, utc_ms=utc_ms, request_key=request.key)
        await commit_credit(
            desk,
            request,
            transaction,
            [account],
            lambda connection: book.redeem(
                connection, body, request, holder, (credit, transaction)
            ),
        )

    async def _close_wrong(
        self, wrong: WrongVoucherError, point: str, request: Request, utc_ms: int
    ) -> None:
        """The refusal and its place in the lock's count, in one commit."""
        desk, book = self._desk, self._book
        warning = await desk.books.commit(
            lambda connection: book.warning(connection, point, request.source, utc_ms)
        )
        await desk.close(
            request,
            OutcomeStatus.REFUSED,
            RefusedError(wrong.refusal_code, f"{wrong.message}; {warning}", wrong.place),
            also=lambda connection: book.note_try(connection, point, request, utc_ms),
        )

    def _holder(self, service_point_id: str) -> tuple[int, Holder]:
        """A point with its open account. Raises RefusedError POINT_UNKNOWN, ACCOUNT_UNKNOWN."""
        index = self._desk.point(service_point_id)
        point = self._desk.engine.points[index]
        if point.pricer is None or not point.account_id:
            raise RefusedError(
                "ACCOUNT_UNKNOWN",
                f"service point {service_point_id} has no open account",
                "service_point_id",
            )
        return index, Holder(service_point_id, point.account_id)
