"""The counter of the small site: requests carried out by control's own functions."""

from gateway.app.control.counter_requests import count_and_close
from gateway.core.requests import CloseShift, OpenShift, Request
from gateway.store.db import Connection
from gateway.store.shifts import open_shift


def at_counter(
    connection: Connection, request: Request, body: OpenShift | CloseShift, now: int
) -> dict[str, object]:
    """Open or close a shift; what came of it."""
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
