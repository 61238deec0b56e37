"""Requests about load: limits, lock-outs, shedding, overrides, the restoration of a whole site."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.app.control.governor import Governor
from gateway.app.control.supply_requests import SupplyRequests
from gateway.app.control.sweeper import Sweeper
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError
from gateway.core.limiter import LIMIT_MAX_W, check_limit
from gateway.core.override import Override, OverrideKind, Scope, check_override
from gateway.core.requests import Request, Role
from gateway.core.shedding import PRIORITY_MAX, PRIORITY_MIN, ShedOrder
from gateway.store.db import Connection
from gateway.store.supply_orders import PointLimits, end_override, put_limits, put_override

NOT_GIVEN_W: Final = -1
NOT_GIVEN: Final = 0


class LoadRequests:
    """Carries out what persons order over the governor's head."""

    def __init__(self, desk: Desk, supply: SupplyRequests, sweeper: Sweeper) -> None:
        self._desk = desk
        self._supply = supply
        self._sweeper = sweeper

    @property
    def _governor(self) -> Governor:
        return self._desk.engine.governor

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.SetLimits: self.set_limits,
            wishes.UnlockOverload: self.unlock,
            wishes.ShedLoad: self.shed,
            wishes.EndShed: self.end_shed,
            wishes.SetOverride: self.set_override,
            wishes.EndOverride: self.end_override,
            wishes.RestoreAll: self.restore_all,
        }

    # -- limits --------------------------------------------------------------------------------

    async def set_limits(self, body: wishes.SetLimits, request: Request) -> None:
        """Limit a point's power. Refuses POINT_UNKNOWN, LIMIT_RANGE, REASON_MISSING."""
        index = self._desk.point(body.service_point_id)
        for name in ("limit_t1_w", "limit_t2_w", "limit_emergency_w"):
            check_limit(getattr(body, name), name)
        _needs_reason(body.reason, "say why the limit changes")
        limits = PointLimits(
            body.service_point_id,
            body.limit_t1_w,
            body.limit_t2_w,
            body.limit_emergency_w,
            self._desk.books.label(),
            request.actor,
            body.reason,
        )

        def effect(connection: Connection) -> dict[str, object]:
            put_limits(connection, limits, request.key)
            return {"service_point_id": body.service_point_id}

        await self._desk.commit(request, effect)
        self._governor.set_limits(index, limits.t1_w, limits.t2_w, limits.emergency_w)

    async def unlock(self, body: wishes.UnlockOverload, request: Request) -> None:
        """End a lock-out. Refuses POINT_UNKNOWN, REASON_MISSING, NOT_LOCKED."""
        index = self._desk.point(body.service_point_id)
        _needs_reason(body.reason, "say what was found and put right")
        supply = self._desk.engine.points[index].supply
        supply.limiter.unlock()
        supply.settle_overload()
        await self._supply.commit_switch(request, index, close=True)

    # -- shedding ------------------------------------------------------------------------------

    async def shed(self, body: wishes.ShedLoad, request: Request) -> None:
        """Order load to be shed on a feeder, in place of an order that stands there.

        Refuses FEEDER_UNKNOWN, REASON_MISSING, SHED_TARGET.
        """
        self._check_feeder(body.feeder, "feeder")
        _needs_reason(body.reason, "say why load is shed")
        by_power, by_priority = body.to_w != NOT_GIVEN_W, body.below_priority != NOT_GIVEN
        if by_power is by_priority:
            raise RefusedError("SHED_TARGET", "give to_w or below_priority, one of them", "to_w")
        if by_power and not 0 <= body.to_w <= 1_000 * LIMIT_MAX_W:
            raise RefusedError("SHED_TARGET", "a power to shed to is not below zero", "to_w")
        if by_priority and not PRIORITY_MIN < body.below_priority <= PRIORITY_MAX + 1:
            raise RefusedError(
                "SHED_TARGET",
                f"below_priority is {PRIORITY_MIN + 1} to {PRIORITY_MAX + 1}",
                "below_priority",
            )
        order = ShedOrder(
            to_w=body.to_w if by_power else None,
            below_priority=body.below_priority if by_priority else None,
            actor=request.actor,
            reason=body.reason,
        )
        self._governor.shedders[body.feeder].order = order
        await self._commit_site(request, {"feeder": body.feeder})

    async def end_shed(self, body: wishes.EndShed, request: Request) -> None:
        """End an order to shed. Refuses FEEDER_UNKNOWN, REASON_MISSING, NO_SHED."""
        self._check_feeder(body.feeder, "feeder")
        _needs_reason(body.reason, "say why shedding ends")
        shedder = self._governor.shedders[body.feeder]
        if shedder.order is None:
            raise RefusedError("NO_SHED", f"nobody ordered to shed on {body.feeder}", "feeder")
        shedder.order = None
        await self._commit_site(request, {"feeder": body.feeder})

    # -- overrides -----------------------------------------------------------------------------

    async def set_override(self, body: wishes.SetOverride, request: Request) -> None:
        """Keep supplies from being cut until an end.

        Refuses POINT_UNKNOWN, FEEDER_UNKNOWN, REASON_MISSING, OVERRIDE_KIND, OVERRIDE_SCOPE,
        OVERRIDE_PAST, OVERRIDE_TOO_LONG, OVERRIDES_FULL.
        """
        wanted = self._override(
            request, _kind_of(body.kind), _scope_of(body.scope), body.target, body
        )
        if wanted.scope is Scope.POINT:
            self._desk.point(wanted.target)
        elif wanted.scope is Scope.FEEDER:
            self._check_feeder(wanted.target, "target")
        await self._let_stand(request, wanted)

    async def end_override(self, body: wishes.EndOverride, request: Request) -> None:
        """End an override before its time. Refuses REASON_MISSING, OVERRIDE_UNKNOWN, FORBIDDEN."""
        _needs_reason(body.reason, "say why it ends")
        governor, utc_ms = self._governor, self._desk.books.label()
        override = governor.overrides.named(body.number)
        if override.role is Role.MANAGER and request.role is not Role.MANAGER:
            raise RefusedError("FORBIDDEN", "a manager's override is ended by a manager", "number")

        def effect(connection: Connection) -> dict[str, object]:
            end_override(
                connection,
                override.number,
                utc_ms=utc_ms,
                actor=request.actor,
                reason=body.reason,
                request_key=request.key,
            )
            return {"override": override.number}

        # Out of memory first: its time may come while this is committed, and it ends once.
        governor.overrides.end(override.number)
        await self._desk.commit(request, effect)
        governor.override_ended(override, request.actor)
        self._desk.engine.decide_all()

    async def restore_all(self, body: wishes.RestoreAll, request: Request) -> None:
        """Be one of two managers who restore the site.

        Refuses REASON_MISSING, OVERRIDE_PAST, OVERRIDE_TOO_LONG, SAME_PERSON.
        """
        wanted = self._override(request, OverrideKind.RESTORE_ALL, Scope.SITE, "", body)
        governor, now_ns = self._governor, self._desk.clock.mono_ns()
        first = governor.asked_restoration(now_ns)
        if first is None:
            governor.ask_restoration(request.actor, body.until_utc_ms, now_ns)
            await self._commit_site(request, {"restored": False})
            return
        actor, until_utc_ms = first
        if actor == request.actor:
            raise RefusedError(
                "SAME_PERSON", "restoring the site needs the word of a second, different manager"
            )
        both = replace(
            wanted,
            actor=f"{actor}, {request.actor}",
            until_utc_ms=min(until_utc_ms, wanted.until_utc_ms),
        )
        governor.forget_restoration()
        governor.begin_restoration()
        await self._let_stand(request, both, restored=True)

    # -- inside --------------------------------------------------------------------------------

    def _override(
        self,
        request: Request,
        kind: OverrideKind,
        scope: Scope,
        target: str,
        body: wishes.SetOverride | wishes.RestoreAll,
    ) -> Override:
        wanted = Override(
            number=0,
            kind=kind,
            scope=scope,
            target=target,
            from_utc_ms=self._desk.books.label(),
            until_utc_ms=body.until_utc_ms,
            reason=body.reason,
            actor=request.actor,
            role=request.role,
        )
        check_override(wanted)
        self._governor.overrides.check_room()
        return wanted

    async def _let_stand(
        self, request: Request, wanted: Override, *, restored: bool | None = None
    ) -> None:
        kept: list[Override] = []
        # Which supplies a restoration brings back is on file with it.
        facts = self._sweeper.site_facts()
        sweeping = self._desk.books.sweeping((), facts) if restored else None

        def effect(connection: Connection) -> dict[str, object]:
            if sweeping is not None:
                sweeping(connection)
            kept.append(put_override(connection, wanted, request.key))
            result: dict[str, object] = {"override": kept[-1].number}
            return result if restored is None else {**result, "restored": restored}

        await self._desk.commit(request, effect)
        self._governor.override_set(kept[-1])
        self._desk.engine.decide_all()

    async def _commit_site(self, request: Request, result: dict[str, object]) -> None:
        """Commit an outcome with the site's facts that it changed in memory, then act."""
        sweeping = self._desk.books.sweeping((), self._sweeper.site_facts())

        def effect(connection: Connection) -> dict[str, object]:
            sweeping(connection)
            return result

        await self._desk.commit(request, effect)
        self._desk.engine.decide_all()

    def _check_feeder(self, name: str, place: str) -> None:
        if name not in self._governor.feeders:
            raise RefusedError("FEEDER_UNKNOWN", f"no meter is on feeder {name!r}", place)


def _needs_reason(reason: str, message: str) -> None:
    if not reason:
        raise RefusedError("REASON_MISSING", message, "reason")


def _kind_of(name: str) -> OverrideKind:
    if name not in (OverrideKind.KEEP_CONNECTED, OverrideKind.MAINTENANCE):
        raise RefusedError("OVERRIDE_KIND", "an override is KEEP_CONNECTED or MAINTENANCE", "kind")
    return OverrideKind(name)


def _scope_of(name: str) -> Scope:
    if name not in tuple(Scope):
        raise RefusedError("OVERRIDE_SCOPE", "an override covers a point, feeder or site", "scope")
    return Scope(name)
