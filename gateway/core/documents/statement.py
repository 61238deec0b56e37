"""The monthly prepaid statement: where a balance came from, exactly.

    closing = opening + money - energy - components - moved

Every term is exact; `sheet.py` makes of it what people read. A statement is folded from the
transactions of the period in their order, so memory does not grow with their number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.core.documents.outages import OffSupply
from gateway.core.documents.periods import DocumentPeriod
from gateway.core.documents.posted import Posted, wallet_nano
from gateway.core.documents.rates import RateBook, RateCell
from gateway.core.ledger import SettlementLine, TransactionKind, wallet
from gateway.core.tariff import EXPORT

ENERGY_PREFIX: Final = "energy:"
# Period, tariff, version and name of a component.
_Part = tuple[str, str, int, str]
# Kind of a money line that no rule accounts for. A sound ledger has none.
UNEXPLAINED: Final = "unexplained"


@dataclass(frozen=True, slots=True)
class MoneyLine:
    """A transaction that is no consumption: what the account as a whole gained by it.

    `reversed_by_seq` names a reversal in the same statement; a later one stands in a later
    statement, and this one stays as it was.
    """

    seq: int
    utc_ms: int
    kind: str
    amount_nano: int
    reference: str = ""
    provider: str = ""
    reverses_seq: int | None = None
    reversed_by_seq: int | None = None


@dataclass(frozen=True, slots=True)
class EnergyLine:
    """Energy of one price, charged for the period of this label (an earlier one: late data)."""

    period: str
    rate: RateCell
    wh: int

    @property
    def amount_nano(self) -> int:
        """What it costs; no rounding step exists."""
        return self.wh * self.rate.price_micro


@dataclass(frozen=True, slots=True)
class ComponentLine:
    """A charge other than energy at a price: fee, tax, minimum, rebate (negative), credit.

    `name` is the component of plan and ledger, such as `fixed` or `tax:VAT`; `version` the tariff
    version whose rules gave it, 0 where unknown. `export` is the credit for `fed_wh` that were fed
    in, at `price_micro` a kWh (None: the version has no price for it).
    """

    period: str
    tariff_id: str
    version: int
    name: str
    amount_nano: int
    fed_wh: int = 0
    price_micro: int | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """What the wallet gave to another of the account's ledger accounts (debt, emergency credit).

    Positive: paid off; negative: lent, as when emergency credit pays for consumption. Balances
    are those of that account: minus what is owed. `apart_nano` changed them without the wallet, as
    when a debt is taken up.
    """

    ledger_account: str
    opening_nano: int
    amount_nano: int
    apart_nano: int = 0

    @property
    def closing_nano(self) -> int:
        """Its balance at the end."""
        return self.opening_nano + self.amount_nano + self.apart_nano


@dataclass(frozen=True, slots=True)
class Rebase:
    """Registers that moved by other than what was settled, and the flags that say why."""

    seq: int
    utc_ms: int
    from_wh: tuple[int, ...]
    to_wh: tuple[int, ...]
    advance_wh: tuple[int, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeterRegisters:
    """A meter's import registers (T1, T2) at both ends, and what was settled between them."""

    service_point_id: str
    meter_id: str
    from_utc_ms: int
    to_utc_ms: int
    opening_wh: tuple[int, ...]
    closing_wh: tuple[int, ...]
    advance_wh: tuple[int, ...]
    rebases: tuple[Rebase, ...] = ()


@dataclass(frozen=True, slots=True)
class FlagCount:
    """How many settlement lines carry a flag, and how much energy they settle."""

    flag: str
    lines: int
    wh: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What happened to an account in a period; the equation above holds to the nano-unit.

    `is_final` is False while postings may still be added: it is a view then, no document.
    """

    account_id: str
    period: DocumentPeriod
    opening_nano: int
    closing_nano: int
    money: tuple[MoneyLine, ...]
    energy: tuple[EnergyLine, ...]
    components: tuple[ComponentLine, ...]
    moved: tuple[Moved, ...]
    meters: tuple[MeterRegisters, ...]
    flags: tuple[FlagCount, ...]
    off_supply: tuple[OffSupply, ...] = ()
    is_final: bool = True

    @property
    def movement_nano(self) -> int:
        """Closing less opening, summed from the lines."""
        return (
            sum(line.amount_nano for line in self.money)
            - sum(line.amount_nano for line in self.energy)
            - sum(line.amount_nano for line in self.components)
            - sum(line.amount_nano for line in self.moved)
        )

    @property
    def energy_wh(self) -> int:
        """All energy of the statement."""
        return sum(line.wh for line in self.energy)

    @property
    def fed_wh(self) -> int:
        """All energy that was fed in and counted for the account."""
        return sum(line.fed_wh for line in self.components)

    @property
    def has_estimates(self) -> bool:
        """Whether the time of some energy is an estimate (domain.md section 3)."""
        return any(count.flag == "ESTIMATED_ALLOCATION" for count in self.flags)


@dataclass(slots=True)
class _Meter:
    """Registers of one meter while lines are taken."""

    first: SettlementLine
    last: SettlementLine
    advance_wh: list[int]
    rebases: list[Rebase] = field(default_factory=list)


class StatementFold:
    """Takes an account's transactions from the period's start to its last posting, in order.

    `opening_nano` is the wallet just before the first of them, `opening_others` the same for the
    account's other ledger accounts. What of them belongs to an earlier document moves from the
    lines into the opening, so that statements of adjacent periods join.
    """

    def __init__(
        self,
        account_id: str,
        period: DocumentPeriod,
        rates: RateBook,
        *,
        opening_nano: int,
        opening_others: Mapping[str, int],
    ) -> None:
        self._account_id = account_id
        self._period = period
        self._rates = rates
        self._opening_nano = opening_nano
        self._closing_nano = opening_nano
        self._opening_others = dict(opening_others)
        self._moved: dict[str, int] = dict.fromkeys(opening_others, 0)
        self._apart: dict[str, int] = {}
        self._money: list[MoneyLine] = []
        self._money_at: dict[int, int] = {}
        self._energy: dict[tuple[str, str, str], EnergyLine] = {}
        self._components: dict[_Part, int] = {}
        self._fed_wh: dict[_Part, int] = {}
        self._meters: dict[tuple[str, str], _Meter] = {}
        self._flags: dict[str, tuple[int, int]] = {}

    def take(self, posted: Posted) -> None:
        """Add a transaction where it belongs."""
        for line in posted.lines:
            place = self._period.place(posted.utc_ms, line.period)
            charged_nano = sum(amount for _, amount in line.charges)
            if place < 0:
                self._opening_nano -= charged_nano
            if place <= 0:
                self._closing_nano -= charged_nano
            if place == 0:
                self._take_line(posted, line)
        # What settlement lines do not say: money itself, and emergency credit or debt that moved.
        settles = posted.kind == TransactionKind.SETTLEMENT
        label = max((line.period for line in posted.lines), default="") if settles else ""
        place = self._period.place(posted.utc_ms, label)
        rest_nano = wallet_nano(posted, self._account_id) + posted.charged_nano
        if place < 0:
            self._opening_nano += rest_nano
        if place <= 0:
            self._closing_nano += rest_nano
            self._take_others(posted, place)
        if place == 0:
            self._take_money(posted, settles=settles)

    def done(self, *, off_supply: tuple[OffSupply, ...] = (), is_final: bool = True) -> Statement:
        """The statement of what was taken."""
        return Statement(
            account_id=self._account_id,
            period=self._period,
            opening_nano=self._opening_nano,
            closing_nano=self._closing_nano,
            money=tuple(self._money),
            energy=tuple(sorted(self._energy.values(), key=_energy_order)),
            components=tuple(
                self._component(key, amount_nano)
                for key, amount_nano in sorted(self._components.items(), key=_component_order)
                if amount_nano or key in self._fed_wh
            ),
            moved=tuple(line for line in map(self._moved_line, sorted(self._moved)) if line),
            meters=tuple(_registers(key, meter) for key, meter in sorted(self._meters.items())),
            flags=tuple(FlagCount(flag, *count) for flag, count in sorted(self._flags.items())),
            off_supply=off_supply,
            is_final=is_final,
        )

    # -- inside ----------------------------------------------------------------------------

    def _component(self, part: _Part, amount_nano: int) -> ComponentLine:
        if part not in self._fed_wh:
            return ComponentLine(*part, amount_nano)
        price_micro = self._rates.feed_in_micro(part[1], part[2])
        return ComponentLine(*part, amount_nano, self._fed_wh[part], price_micro)

    def _moved_line(self, name: str) -> Moved | None:
        """One of the account's other ledger accounts; None while nothing ever was on it."""
        parts = (self._opening_others.get(name, 0), self._moved[name], self._apart.get(name, 0))
        return Moved(name, *parts) if any(parts) else None

    def _take_others(self, posted: Posted, place: int) -> None:
        for entry in posted.own:
            name = entry.ledger_account
            if name == wallet(self._account_id):
                continue
            self._moved.setdefault(name, 0)
            if place < 0:
                before_nano = self._opening_others.get(name, 0)
                self._opening_others[name] = before_nano + entry.amount_nano
            elif self._is_apart(posted):
                self._apart[name] = self._apart.get(name, 0) + entry.amount_nano
            else:
                self._moved[name] += entry.amount_nano

    def _is_apart(self, posted: Posted) -> bool:
        """Whether a transaction leaves the wallet alone, as a debt that is taken up does."""
        return not posted.lines and not any(
            entry.ledger_account == wallet(self._account_id) for entry in posted.own
        )

    def _take_money(self, posted: Posted, *, settles: bool) -> None:
        amount_nano = posted.own_nano + posted.charged_nano
        original = self._money_at.get(posted.reverses_seq or 0)
        if original is not None:
            undone = replace(self._money[original], reversed_by_seq=posted.seq)
            self._money[original] = undone
        # Money that only moved between the account's own ledger accounts stands with those.
        if not amount_nano or self._is_apart(posted):
            return
        self._money_at[posted.seq] = len(self._money)
        self._money.append(
            MoneyLine(
                seq=posted.seq,
                utc_ms=posted.utc_ms,
                kind=UNEXPLAINED if settles else posted.kind,
                amount_nano=amount_nano,
                reference=posted.noted("reference"),
                provider=posted.noted("provider"),
                reverses_seq=posted.reverses_seq,
            )
        )

    def _take_line(self, posted: Posted, line: SettlementLine) -> None:
        left_nano = dict(line.charges)
        for key, wh in line.cells:
            rate = self._rates.cell(line.tariff_id, key)
            if rate is None:
                continue
            place = (line.period, line.tariff_id, key)
            known = self._energy.get(place)
            taken_wh = wh if known is None else known.wh + wh
            self._energy[place] = EnergyLine(line.period, rate, taken_wh)
            name = f"{ENERGY_PREFIX}{rate.source}"
            left_nano[name] = left_nano.get(name, 0) - wh * rate.price_micro
        version = self._rates.version_of(line)
        if line.fed_wh:
            fed = (line.period, line.tariff_id, version, EXPORT)
            self._fed_wh[fed] = self._fed_wh.get(fed, 0) + line.fed_wh
            self._components.setdefault(fed, 0)
        for name, amount_nano in left_nano.items():
            if amount_nano:
                part = (line.period, line.tariff_id, version, name)
                self._components[part] = self._components.get(part, 0) + amount_nano
        self._take_registers(posted, line)
        for flag in line.flags:
            lines, wh = self._flags.get(flag, (0, 0))
            self._flags[flag] = (lines + 1, wh + sum(line.advance_wh))

    def _take_registers(self, posted: Posted, line: SettlementLine) -> None:
        key = (line.service_point_id, line.meter_id)
        meter = self._meters.get(key)
        if meter is None:
            meter = self._meters[key] = _Meter(line, line, list(line.advance_wh))
        else:
            meter.last = line
            meter.advance_wh = _added(meter.advance_wh, line.advance_wh)
        if _added(line.from_wh, line.advance_wh) != list(line.to_wh):
            meter.rebases.append(
                Rebase(
                    seq=posted.seq,
                    utc_ms=posted.utc_ms,
                    from_wh=line.from_wh,
                    to_wh=line.to_wh,
                    advance_wh=line.advance_wh,
                    flags=line.flags,
                )
            )


def _added(left: tuple[int, ...] | list[int], right: tuple[int, ...]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _registers(key: tuple[str, str], meter: _Meter) -> MeterRegisters:
    return MeterRegisters(
        service_point_id=key[0],
        meter_id=key[1],
        from_utc_ms=meter.first.from_utc_ms,
        to_utc_ms=meter.last.to_utc_ms,
        opening_wh=meter.first.from_wh,
        closing_wh=meter.last.to_wh,
        advance_wh=tuple(meter.advance_wh),
        rebases=tuple(meter.rebases),
    )


def _energy_order(line: EnergyLine) -> tuple[str, str, int, str, str, int]:
    rate = line.rate
    return (line.period, rate.tariff_id, rate.version, rate.source, rate.band, rate.block)


_COMPONENT_ORDER: Final = ("energy", "export", "contained", "fixed", "minimum", "rebate", "tax")


def _component_order(
    item: tuple[_Part, int],
) -> tuple[str, str, int, int, str]:
    period, tariff_id, version, name = item[0]
    kind = name.partition(":")[0]
    known = kind in _COMPONENT_ORDER
    rank = _COMPONENT_ORDER.index(kind) if known else len(_COMPONENT_ORDER)
    return (period, tariff_id, version, rank, name)
