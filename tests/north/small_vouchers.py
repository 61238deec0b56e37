"""Vouchers of the small site: control's own rules, under a key of the tests."""

from typing import Final
from zoneinfo import ZoneInfo

from gateway.app.control.till import CounterRules, Till
from gateway.app.control.voucher_book import Holder, VoucherBook, VoucherTerms, redemption_of
from gateway.app.voucher_key import VoucherKeys
from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.requests import (
    CancelVoucher,
    IssueVoucher,
    RedeemVoucher,
    Request,
    UnlockVouchers,
)
from gateway.store.db import Connection
from gateway.store.registry import account_at
from gateway.store.vouchers import subject_of_address, subject_of_point

INR: Final = Currency("INR")
BOOK: Final = VoucherBook(
    VoucherTerms(VoucherKeys(bytes(range(32))), INR.minor_nano),
    INR,
    Till(CounterRules(ZoneInfo("Asia/Kolkata")), INR),
)


def voucher_effect(
    connection: Connection,
    request: Request,
    body: IssueVoucher | RedeemVoucher | CancelVoucher | UnlockVouchers,
    now: int,
) -> dict[str, object]:
    """Carry out a request about vouchers; wrong tries are not kept here."""
    if isinstance(body, UnlockVouchers):
        subjects = [subject_of_point(body.point_id)] if body.point_id else []
        subjects += [subject_of_address(body.address)] if body.address else []
        return BOOK.unlock(connection, subjects, request, body.reason, now)
    if isinstance(body, CancelVoucher):
        return BOOK.cancel(connection, body, request, now)
    account = account_at(connection, body.service_point_id)
    if account is None:
        raise RefusedError("ACCOUNT_UNKNOWN", "there is no open account", "service_point_id")
    holder = Holder(body.service_point_id, account.account_id)
    if isinstance(body, IssueVoucher):
        return BOOK.issue(connection, body, request, holder, now)
    credit = BOOK.judge(connection, body, request, holder, now)
    redemption = redemption_of(credit, holder, utc_ms=now, request_key=request.key)
    return BOOK.redeem(connection, body, request, holder, (credit, redemption))
