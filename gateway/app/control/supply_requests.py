"""Requests about supply and meters: switching, commissioning, held energy, exchange, clock."""

from collections.abc import Mapping
from typing import Final

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.app.control.sweeper import Sweeper
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError
from gateway.core.requests import Request, Role
from gateway.core.switching import Reason
from gateway.store.db import Connection
from gateway.store.registry import (
    MeterAssignment,
    assign_meter,
    assignment_of,
    commission_point,
    end_assignment,
)

# What a person may set by hand; the other reasons have rules of their own.
CAUSES: Final = (Reason.MANUAL, Reason.SAFETY, Reason.LEGAL, Reason.TAMPER)
MANAGERS_CAUSES: Final = frozenset({Reason.LEGAL, Reason.TAMPER})


class SupplyRequests:
    """Carries out the requests that change a supply, a meter or the trust in the clock."""

    def __init__(self, desk: Desk, sweeper: Sweeper) -> None:
        self._desk = desk
        self._sweeper = sweeper

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.CommissionPoint: self.commission,
            wishes.Disconnect: self.disconnect,
            wishes.Reconnect: self.reconnect,
            wishes.ConfirmReconnect: self.confirm,
            wishes.ReleaseQuarantine: self.release_quarantine,
            wishes.ReleaseHalt: self.release_halt,
            wishes.ConfirmClock: self.confirm_clock,
        }

    async def disconnect(self, body: wishes.Disconnect, request: Request) -> None:
        """Open a supply for a stated reason.

        Refuses NOT_ENFORCED, REASON_MISSING, CAUSE_UNKNOWN, FORBIDDEN (LEGAL and TAMPER).
        """
        index = self._switchable(body.service_point_id)
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why supply is taken away", "reason")
        cause = _cause_of(body.cause, request.role)
        self._desk.engine.points[index].supply.block(cause, body.owner)
        await self.commit_switch(request, index, close=False)

    async def reconnect(self, body: wishes.Reconnect, request: Request) -> None:
        """Clear a cause, or (MANUAL) answer for an output that somebody opened.

        Refuses NOT_ENFORCED, CAUSE_UNKNOWN, FORBIDDEN, NOT_DISCONNECTED.
        """
        index = self._switchable(body.service_point_id)
        supply, now_ns = self._desk.engine.points[index].supply, self._desk.clock.mono_ns()
        cause = _cause_of(body.cause, request.role)
        if not supply.unblock(cause, body.owner or None):
            answered = cause is Reason.MANUAL and not body.owner
            if not (answered and supply.accept_open_output(now_ns)):
                raise RefusedError(
                    "NOT_DISCONNECTED", f"no disconnection stands here for {cause}", "cause"
                )
        await self.commit_switch(request, index, close=True)

    async def confirm(self, body: wishes.ConfirmReconnect, request: Request) -> None:
        """A person confirms. Refuses SUPPLY_BLOCKED, NOTHING_TO_CONFIRM, MIN_OFF_TIME."""
        index = self._switchable(body.service_point_id)
        self._desk.engine.points[index].supply.confirm(self._desk.clock.mono_ns())
        await self.commit_switch(request, index, close=True)

    async def commission(self, body: wishes.CommissionPoint, request: Request) -> None:
        """Enforce supply at a point from now on. Refuses POINT_UNKNOWN."""
        index = self._desk.point(body.service_point_id)
        label = self._desk.books.label()

        def effect(connection: Connection) -> dict[str, object]:
            commission_point(connection, body.service_point_id, utc_ms=label)
            return {"service_point_id": body.service_point_id}

        await self._desk.commit(request, effect)
        await self._desk.enforce(index)

    async def release_halt(self, body: wishes.ReleaseHalt, request: Request) -> None:
        """One of two managers releases a halt. Refuses NOT_HALTED, SAME_PERSON."""
        complete = self._desk.engine.breaker.release(request.actor)
        # With its outcome: after a crash nobody is asked for a release that was answered.
        sweeping = self._desk.books.sweeping((), self._sweeper.site_facts())

        def effect(connection: Connection) -> dict[str, object]:
            sweeping(connection)
            return {"released": complete, "reason": body.reason}

        await self._desk.commit(request, effect)
        if complete:
            self._desk.engine.decide_all()

    async def release_quarantine(self, body: wishes.ReleaseQuarantine, request: Request) -> None:
        """Decide on held energy. Refuses METER_UNKNOWN, NOTHING_HELD, ENERGY_RANGE."""
        index = self._desk.meter(body.meter_id)
        point = self._desk.engine.points[index]
        held_wh = list(point.feed_in.held_wh) if point.feed_in is not None else []
        advance_wh = point.release(accept=body.accept)
        result: dict[str, object] = {"charged_wh": list(advance_wh)}
        if held_wh:
            result["credited_wh"] = [max(0, wh) if body.accept else 0 for wh in held_wh]
        await self._desk.commit(request, lambda _: result, post=[index])
        if point.account is not None and held_wh:
            await self._desk.settle_supply(point.account)

    async def replace_meter(self, body: wishes.ReplaceMeter, request: Request) -> None:
        """Exchange a device. Refuses METER_UNKNOWN, NO_BASELINE, REPLACEMENT_REGISTERS."""
        desk = self._desk
        index = desk.meter(body.meter_id)
        point = desk.engine.points[index]
        advance_wh = point.replace_meter(body.closing_wh, body.opening_wh)
        desk.engine.polls.expect_another_device(index)
        label = desk.books.label()
        stay = MeterAssignment(body.meter_id, point.terms.service_point_id, label, body.opening_wh)

        def effect(connection: Connection) -> dict[str, object]:
            if assignment_of(connection, body.meter_id) is not None:
                end_assignment(
                    connection, body.meter_id, to_utc_ms=label, closing_wh=body.closing_wh
                )
            assign_meter(connection, stay)
            return {"charged_wh": list(advance_wh)}

        await desk.commit(request, effect, post=[index], made={"utc_ms": label})

    async def confirm_clock(self, body: wishes.ConfirmClock, request: Request) -> None:
        """A person says that the wall clock is right."""
        await self._desk.commit(request, lambda _: {"reason": body.reason})
        self._sweeper.confirm_clock()

    def _switchable(self, service_point_id: str) -> int:
        index = self._desk.point(service_point_id)
        if not self._desk.engine.points[index].supply.enforced:
            raise RefusedError(
                "NOT_ENFORCED",
                f"{service_point_id} is not commissioned or has no open account: "
                "its supply is not switched",
            )
        return index

    async def commit_switch(self, request: Request, index: int, *, close: bool) -> None:
        """Commit an outcome with the supply state that it changed in memory, then act."""
        self._desk.engine.expect(index, request.key, close=close)
        point_id = self._desk.engine.points[index].terms.service_point_id
        await self._desk.commit(request, lambda _: {"service_point_id": point_id}, post=[index])
        self._desk.engine.requested(index)


def _cause_of(name: str, role: Role) -> Reason:
    """The reason that a person sets or clears. Raises RefusedError CAUSE_UNKNOWN, FORBIDDEN."""
    cause = next((reason for reason in CAUSES if reason.value == name), None)
    if cause is None:
        known = ", ".join(reason.value for reason in CAUSES)
        raise RefusedError("CAUSE_UNKNOWN", f"a person's cause is one of {known}", "cause")
    if cause in MANAGERS_CAUSES and role is not Role.MANAGER:
        raise RefusedError("FORBIDDEN", f"{cause} is set and cleared by a manager", "cause")
    return cause
