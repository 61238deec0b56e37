"""What `ledger.db` keeps of limits and overrides beside requests: their start, their silent end."""

from collections.abc import Mapping

from gateway.app.control.books import Books
from gateway.app.control.governor import Governor
from gateway.core.override import Override
from gateway.core.switching import Reason
from gateway.store.audit import append_audit
from gateway.store.db import Connection
from gateway.store.supply_orders import PointLimits, end_override

# Who ends an override whose time is over.
CONTROL = "control"


class SupplyRecords:
    """Puts what no request says about an override into the audit chain."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def suppressed(self, override: Override, service_point_id: str, reason: Reason) -> None:
        """An override kept a supply from being cut."""
        utc_ms = self._books.label()
        body = _record(override, "override_suppressed_cut", service_point_id, reason.value)
        self._books.commit(lambda connection: append_audit(connection, utc_ms=utc_ms, body=body))

    def expired(self, override: Override) -> None:
        """An override's time is over."""
        utc_ms = self._books.label()
        body = _record(override, "override_expired", override.target, "")

        def operate(connection: Connection) -> None:
            end_override(
                connection, override.number, utc_ms=utc_ms, actor=CONTROL, reason="its time is over"
            )
            append_audit(connection, utc_ms=utc_ms, body=body)

        self._books.commit(operate)


def apply_limits(governor: Governor, limits: Mapping[str, PointLimits]) -> None:
    """Let the limits that persons set stand in place of the configuration's."""
    for index, point in enumerate(governor.points):
        kept = limits.get(point.terms.service_point_id)
        if kept is not None:
            governor.set_limits(index, kept.t1_w, kept.t2_w, kept.emergency_w)


def _record(override: Override, action: str, what: str, reason: str) -> dict[str, object]:
    return {
        "actor": CONTROL,
        "action": action,
        "object": what,
        "override": override.number,
        "owner": override.actor,
        "reason": reason,
    }
