"""What north refuses, summed up and handed to control for the audit record.

The first denial of its kind goes out with the next look, so that it is on record within a second
or two; the same again (caller, address, route, code) is counted, and told as one at the end of the
minute. Callers who never proved who they are have an allowance of their own: whoever floods the
gateway from outside hides nothing that a known caller does.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from gateway.core.address import site_of
from gateway.core.clock import Clock
from gateway.core.denials import COUNT_MAX, FURTHER, NS_PER_S, Allowance, Denial
from gateway.core.errors import StoreAwayError, StoreError
from gateway.store.denials import DenialCursor, add_denials, has_denials, load_denial_cursor

if TYPE_CHECKING:
    from gateway.north.context import NorthContext

LOOK_EVERY_S: Final = 1.0
SUM_UP_NS: Final = 60 * NS_PER_S
# An attack that goes on is one warning and not one a minute.
CALM_NS: Final = 600 * NS_PER_S
# What waits to be written while north.db does not take it.
UNWRITTEN_MAX: Final = 200

log = structlog.get_logger("gateway.north")

Kind = tuple[str, str, str, str]


@dataclass(slots=True)
class _Standing:
    """Denials of one kind: the first of those not told yet, how many, when one was told last."""

    denial: Denial
    count: int = 1
    last_utc_ms: int = 0
    told_ns: int | None = None


@dataclass(slots=True)
class _Group:
    """Callers who share an allowance; `further` counts what was not told one by one."""

    allowance: Allowance
    kinds_max: int
    standing: dict[Kind, _Standing] = field(default_factory=dict)
    further: int = 0
    further_first_utc_ms: int = 0
    further_told_ns: int | None = None

    def sum_up(self, count: int, utc_ms: int) -> None:
        """Count denials that find no place of their own."""
        if self.further == 0:
            self.further_first_utc_ms = utc_ms
        self.further = min(COUNT_MAX, self.further + count)


class DenialLog:
    """Takes denials at any rate in bounded memory; gives out a bounded number a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A hundred wrong calls in a row are each on record, then three a minute: more than one
        # program gone astray makes of itself. Strangers: one a minute.
        self._known = _Group(Allowance(100, 20.0), 256)
        self._strangers = _Group(Allowance(20, 60.0), 128)

    def note(self, denial: Denial, *, stranger: bool) -> None:
        """Take up one denial; costs microseconds. `stranger`: it is not known who called."""
        group = self._strangers if stranger else self._known
        source = site_of(denial.source) if stranger else denial.source
        kind = (denial.actor, source, denial.action, denial.code)
        found = group.standing.get(kind)
        if found is not None:
            if found.count == 0:
                found.denial = denial
            found.count = min(COUNT_MAX, found.count + 1)
            found.last_utc_ms = denial.last_utc_ms
        elif len(group.standing) < group.kinds_max:
            group.standing[kind] = _Standing(denial, last_utc_ms=denial.last_utc_ms)
        else:
            group.sum_up(1, denial.first_utc_ms)

    def give_back(self, denials: list[Denial]) -> None:
        """Count what found no room in north.db among the further ones of its group."""
        for denial in denials:
            group = self._known if denial.role else self._strangers
            group.sum_up(denial.count, denial.first_utc_ms)
            group.further_told_ns = None  # as soon as there is room

    @property
    def summed(self) -> bool:
        """Whether any denial waits that is told as a number only."""
        return bool(self._known.further or self._strangers.further)

    def due(self, *, last: bool = False) -> list[Denial]:
        """What is to be told now; `last`: whatever waits, since the process ends."""
        now_ns = self._clock.mono_ns()
        return [
            denial
            for group in (self._known, self._strangers)
            for denial in self._due_of(group, now_ns, last=last)
        ]

    def _due_of(self, group: _Group, now_ns: int, *, last: bool) -> list[Denial]:
        told: list[Denial] = []
        for kind, found in list(group.standing.items()):
            waited = found.told_ns is None or now_ns - found.told_ns >= SUM_UP_NS
            if found.count == 0 and waited:
                del group.standing[kind]
            elif found.count and (waited or last):
                if group.allowance.take(now_ns):
                    denial = found.denial
                    told.append(replace(denial, count=found.count, last_utc_ms=found.last_utc_ms))
                else:
                    group.sum_up(found.count, found.denial.first_utc_ms)
                found.count, found.told_ns = 0, now_ns
        waited_ns = SUM_UP_NS if group.further_told_ns is None else now_ns - group.further_told_ns
        if group.further and (waited_ns >= SUM_UP_NS or last):
            told.append(self._further(group))
            group.further, group.further_told_ns = 0, now_ns
        return told

    def _further(self, group: _Group) -> Denial:
        return Denial(
            actor="",
            role="known" if group is self._known else "",
            source="",
            action=FURTHER,
            code="DENIED",
            place="",
            request="",
            object={},
            count=group.further,
            first_utc_ms=group.further_first_utc_ms,
            last_utc_ms=self._clock.utc_ms(),
        )


class DenialPost:
    """Brings denials into north.db, and deletes there what control has on record."""

    def __init__(self, context: "NorthContext") -> None:
        self._context = context
        self._posting = asyncio.Lock()
        self._unwritten: list[Denial] = []
        self._rows = True  # until looked at: an earlier run may have left some
        self._deleted: DenialCursor | None = None
        self._summed_ns: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Post until `stop`; not to be cancelled, or what is being written may be told twice."""
        while not stop.is_set():
            await self.post()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._context.clock.loop_delay_s(LOOK_EVERY_S)):
                    await stop.wait()

    async def post(self, *, last: bool = False) -> None:
        """Write what is due, all that waits with `last`; what cannot be written now is kept, in
        bounds.
        """
        denials = self._context.denials
        async with self._posting:
            self._unwritten += denials.due(last=last)
            denials.give_back(self._unwritten[UNWRITTEN_MAX:])
            del self._unwritten[UNWRITTEN_MAX:]
            # With a store away everything stays for another look.
            with suppress(StoreError):
                await self._write()
            self._tell()

    async def _write(self) -> None:
        recorded = await self._recorded() if self._rows else None
        if not self._unwritten and recorded == self._deleted:
            return
        taken, self._rows = await self._context.write(
            lambda connection: (
                add_denials(connection, self._unwritten, recorded),
                has_denials(connection),
            )
        )
        self._deleted = recorded
        self._context.denials.give_back(self._unwritten[taken:])
        self._unwritten = []

    async def _recorded(self) -> DenialCursor | None:
        try:
            return await self._context.ledger.read(load_denial_cursor)
        except StoreAwayError:
            return self._deleted

    def _tell(self) -> None:
        """Say once that not every denial is told by itself, and once that it is so again."""
        now_ns = self._context.clock.mono_ns()
        if self._context.denials.summed:
            if self._summed_ns is None:
                log.warning("denials.summed", reason="too many to tell each; the rest is counted")
            self._summed_ns = now_ns
        elif self._summed_ns is not None and now_ns - self._summed_ns >= CALM_NS:
            log.info("denials.told")
            self._summed_ns = None
