"""The leases of a site's nodes: what each should hold, and one way to give it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from gateway.app.control.books import Books
from gateway.app.control.devices import LIFTED, DeviceBook, Teller
from gateway.app.control.node_words import GAP_NS
from gateway.app.control.shelf import TariffShelf
from gateway.core.account import Account
from gateway.core.clock import Clock
from gateway.core.credit import PaymentMode
from gateway.core.errors import MeterTimeoutError, NodeRefusedError
from gateway.core.lease import (
    NO_LIMITS,
    UNLIMITED_WH,
    Grant,
    PowerLimits,
    Wanted,
    granted,
    limits_of,
    renewed,
)
from gateway.core.lease_prices import Outlook, cutoff_wh, outlook_of
from gateway.core.point import Point
from gateway.core.switching import Reason
from gateway.south.node_device import NodeDevice
from gateway.south.nodes import NodeGroup
from gateway.store.devices import DeviceRecord, put_devices

if TYPE_CHECKING:
    from gateway.app.control.engine import Engine

# A node that did not take its lease is left alone with it for so long.
RETRY_NS: Final = 30 * 1_000_000_000
# A lease refused or not answered so many times in a row, and somebody has to look.
REFUSALS_TOLD: Final = 3
# By which a node says that its lease has opened it.
LEASE_REASONS: Final = frozenset({"lease", "expired"})


class Leases:
    """Grants leases over `group`. `first` is where the points of nodes begin, `epoch` the store's.

    What the gateway itself would not cut, no lease cuts.
    """

    def __init__(
        self,
        group: NodeGroup,
        engine: "Engine",
        clock: Clock,
        tell: Teller,
        *,
        first: int,
        epoch: str,
        shelf: TariffShelf,
        book: DeviceBook,
        books: Books,
    ) -> None:
        self._group = group
        self._engine = engine
        self._clock = clock
        self._tell = tell
        self._first = first
        self._epoch = epoch
        self._shelf = shelf
        self._book = book
        self._books = books
        self._granting: set[int] = set()
        # Points whose cut-off somebody is taking away just now.
        self._lifting: set[int] = set()
        self._after_ns: dict[int, int] = {}
        self._refusals: dict[int, int] = {}

    def look(self, device: NodeDevice) -> None:
        """Grant a node its lease, where that moved."""
        index = device.index
        able = device.online and device.session and device.has_relay
        waits = index in self._granting or index in self._lifting
        waits = waits or self._clock.mono_ns() < self._after_ns.get(index, 0)
        if not able or waits or (wanted := self._wanted(device)) is None:
            return
        fresh = renewed(self._held(device), wanted, self._now_s())
        if fresh is None or (fresh.is_unlimited and device.lease is None):
            return
        self._granting.add(index)
        self._group.spawn(self._renew(index, fresh), f"lease {device.device_id}")

    async def before_close(self, index: int) -> None:
        """Grant what the credit allows now, whatever the node holds. Raises a MeterError."""
        device = self._group.device_at(index)
        if device is None or (wanted := self._wanted(device)) is None:
            return
        fresh = granted(wanted, self._now_s(), self._held(device))
        latched = LEASE_REASONS.intersection(device.reasons)
        if device.lease or latched or not fresh.is_unlimited:
            await self._grant(index, fresh)

    async def hold_back(self, device: NodeDevice, *, until_restart: bool) -> str:
        """A counter is about to jump by a person's word: no lease cuts on it before the gateway has
        judged it, with `until_restart` in another session. Returns once that is kept, since control
        may end meanwhile, what `go_on` is to be told where nothing came of it.
        """
        self._lifting.add(device.index)
        before = self._waits_for(device)[1]
        record = self._mark(device, device.session if until_restart else before)
        await self._books.commit(lambda connection: put_devices(connection, [record]))
        return before

    async def lift(self, device: NodeDevice) -> None:
        """Take the cut-off away that a node holds, or is about to. Raises a MeterError."""
        if device.lease is not None or device.index in self._granting:
            await self._grant(device.index, granted(Wanted(0, UNLIMITED_WH), self._now_s()))

    def go_on(self, device: NodeDevice, session: str | None = None) -> None:
        """The node has answered, or did not: leases follow its credit again once it was read; where
        nothing came of it, as before (`session`).
        """
        self._lifting.discard(device.index)
        if session is None:
            session = self._waits_for(device)[1]
        self._mark(device, session)

    # -- inside ----------------------------------------------------------------------------

    def _now_s(self) -> int | None:
        """The wall time; None while it is in doubt."""
        return self._clock.utc_ms() // 1_000 if self._engine.gate.clock.trusted else None

    def _point(self, index: int) -> Point:
        return self._engine.points[self._first + index]

    def _waits_for(self, device: NodeDevice) -> tuple[int, str]:
        """The reading, and the session of the node, after which its leases go on.

        Readings of before its restart say nothing of the counter that it has since, nor do those
        of another point, where it was when that was kept.
        """
        record = self._book.records[device.device_id]
        sequence, session = cast("tuple[int, str]", record.state.get(LIFTED, (-1, "")))
        last, is_over = self._point(device.index).last_sequence, device.session not in (session, "")
        if (session and is_over) or sequence > last:
            sequence, session = last, "" if is_over else session
            self._mark(device, session)
        return sequence, session

    def _is_held_back(self, device: NodeDevice) -> bool:
        """Whether no lease may cut on the counter yet; forgotten once one may."""
        if LIFTED not in self._book.records[device.device_id].state:
            return False
        sequence, session = self._waits_for(device)
        # What the node had kept may be of the counter before.
        live = self._point(device.index).last_full
        if session or live is None or live.sequence <= sequence:
            return True
        record = self._book.records[device.device_id]
        state = {name: value for name, value in record.state.items() if name != LIFTED}
        self._book.put(replace(record, state=state))
        return False

    def _mark(self, device: NodeDevice, session: str) -> DeviceRecord:
        """No lease cuts on the counter before another reading, and another session than this."""
        record = self._book.records[device.device_id]
        mark = [self._point(device.index).last_sequence, session]
        marked = replace(record, state={**record.state, LIFTED: mark})
        self._book.put(marked)
        return marked

    def _held(self, device: NodeDevice) -> Grant | None:
        lease = device.lease
        if lease is None or lease.epoch != self._epoch:
            return None
        return Grant(lease.cutoff_wh, lease.expires_s, lease.limits)

    async def _renew(self, index: int, fresh: Grant) -> None:
        try:
            device = self._group.device_at(index)
            if device is None or (not fresh.is_unlimited and self._is_held_back(device)):
                return  # what was wanted before that is no more
            self._after_ns[index] = self._clock.mono_ns() + RETRY_NS
            await self._grant(index, fresh)
            self._after_ns.pop(index, None)
        finally:
            self._granting.discard(index)

    async def _grant(self, index: int, fresh: Grant) -> None:
        try:
            await self._group.grant(index, fresh, self._epoch)
        except NodeRefusedError as refused:
            self._not_taken(index, refused.node_code, str(refused))
            raise
        except MeterTimeoutError as error:
            # One that is gone is told of as such; one that is heard does not hear us.
            device = self._group.device_at(index)
            heard_ns = None if device is None else device.heard_ns
            if heard_ns is not None and self._clock.mono_ns() - heard_ns <= GAP_NS:
                self._not_taken(index, error.code, str(error))
            raise
        if self._refusals.pop(index, 0) >= REFUSALS_TOLD:
            self._tell_refused(index, "cleared")

    def _not_taken(self, index: int, code: str, reason: str) -> None:
        self._refusals[index] = self._refusals.get(index, 0) + 1
        if self._refusals[index] == REFUSALS_TOLD:
            self._tell_refused(index, "warning", code=code, reason=reason)

    def _tell_refused(self, index: int, severity: str, **facts: object) -> None:
        self._tell("NODE_LEASE_REFUSED", self._point(index).terms.meter_id, severity, **facts)

    def _wanted(self, device: NodeDevice) -> Wanted | None:
        """What a node should hold now; None before its counter is known."""
        if self._is_held_back(device):
            return Wanted(0, UNLIMITED_WH)
        point = self._point(device.index)
        registers, account = point.guard.registers_wh, point.account
        if registers is None:
            return None
        if account is None:
            return Wanted(registers[0], UNLIMITED_WH)
        outlook = self._outlook(point)
        power = _limits(point, account, outlook) if "limits" in device.can else NO_LIMITS
        if self._is_kept_on(device.index, account):
            return Wanted(registers[0], UNLIMITED_WH, power)
        available_nano = account.available_nano
        if not account.credit.is_invoked:
            available_nano += account.credit.terms.emergency_limit_nano
        supply = point.supply
        # Only once it was seen to be off: until then breaker and clock may still hold the cut back.
        is_cut = Reason.CREDIT in supply.reasons and supply.output_closed is False
        cutoff = cutoff_wh(registers[0], available_nano, outlook)
        later = cutoff_wh(registers[0], available_nano, self._outlook(point, dated=False))
        return Wanted(registers[0], cutoff, power, is_cut=is_cut, grace_wh=max(0, later - cutoff))

    def _outlook(self, point: Point, *, dated: bool = True) -> Outlook:
        """What may price the point's energy until a lease ends that is granted now; not `dated`,
        also what may after that."""
        source, known = point.terms.sources[0], self._shelf.known(point.tariff_id)
        if point.pricer is None:
            return Outlook((), source)
        utc_ms = self._clock.utc_ms() if dated and self._now_s() is not None else None
        return outlook_of(point.pricer, known, source, utc_ms)

    def _is_kept_on(self, index: int, account: Account) -> bool:
        """Whether nothing may cut here for credit now: neither the gateway nor a lease."""
        engine, point = self._engine, self._point(index)
        supply, breaker = point.supply, engine.breaker
        if not point.guard.is_own or engine.gate.recovery is not None or breaker.halted:
            return True
        undated = self._now_s() is None and self._first + index not in engine.flat
        if undated or _is_never_cut(point, account):
            return True
        waits = Reason.CREDIT in supply.reasons and supply.output_closed is not False
        return waits and not breaker.has_room(self._clock.mono_ns(), engine.connected_points())


def _is_never_cut(point: Point, account: Account) -> bool:
    terms, supply = account.credit.terms, point.supply
    return (
        not supply.enforced
        or supply.policy.critical
        or Reason.CREDIT in supply.blocks.suspended
        or bool(supply.blocks.held_back)
        # A calendar may keep supply on at any time: the gateway alone cuts there.
        or terms.calendar is not None
        or terms.payment_mode is PaymentMode.CREDIT
    )


def _limits(point: Point, account: Account, outlook: Outlook) -> PowerLimits:
    """The limits of the point, and where emergency credit will bear what is used."""
    supply, credit = point.supply, account.credit
    if not supply.enforced:
        return NO_LIMITS
    source, limits = point.terms.sources[0], supply.limiter.limits
    begins_wh = UNLIMITED_WH
    # In doubt about the counter nobody knows where emergency credit begins.
    emergency_w = limits.emergency_w if point.guard.is_own else None
    if emergency_w is not None and credit.terms.payment_mode is PaymentMode.PREPAYMENT:
        running_nano = account.running_nano
        registers_wh = (point.guard.registers_wh or (0,))[0]
        if credit.emergency_in_use(running_nano):
            begins_wh = max(1, registers_wh)
        elif credit.terms.emergency_limit_nano:
            own_nano = credit.wallet_nano - running_nano
            begins_wh = cutoff_wh(registers_wh, own_nano, outlook)
    return limits_of(limits.by_source.get(source), emergency_w, begins_wh)
