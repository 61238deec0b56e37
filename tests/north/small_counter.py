"""The counter of the small site: requests carried out by control's own functions."""

from gateway.app.control.counter_requests import count_and_close
from gateway.core.requests import (
    CancelVoucher,
    CloseShift,
    IssueVoucher,
    OpenShift,
    RedeemVoucher,
    Request,
    UnlockVouchers,
)
from gateway.store.db import Connection
from gateway.store.shifts import open_shift
from tests.north.small_vouchers import voucher_effect

AT_COUNTER = (OpenShift, CloseShift, IssueVoucher, RedeemVoucher, CancelVoucher, UnlockVouchers)


def at_counter(
    connection: Connection,
    request: Request,
    body: OpenShift | CloseShift | IssueVoucher | RedeemVoucher | CancelVoucher | UnlockVouchers,
    now: int,
) -> dict[str, object]:
    """Open or close a shift, or serve a voucher; what came of it."""
    if isinstance(body, IssueVoucher | RedeemVoucher | CancelVoucher | UnlockVouchers):
        return voucher_effect(connection, request, body, now)
    if isinstance(body, CloseShift):
        return count_and_close(connection, body, request, utc_ms=now)
    shift = open_shift(
        connection,
        drawer=body.drawer,
        cashier=request.actor,
        float_nano=body.float_nano,
        cash_provider="counter",
        utc_ms=now,
        request_key=request.key,
    )
    return {"shift_number": shift.number, "drawer": shift.drawer}
