"""Every minor unit of a balance, traced: transaction, entries, settlement line, registers, rates.

Energy is linear: Wh of a rate cell times its price is the amount, exactly; so is what was fed in,
which is given. The other components
are functions F of what the period has accumulated (domain.md section 2), so a line holds
F(after) - F(before); the explanation shows both, and for a tax the basis of each.

`shortfalls` proves an explanation: it is empty exactly when everything adds up to the entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.documents.posted import Posted
from gateway.core.documents.rates import RateBook, RateCell, TaxTerms, kind_of
from gateway.core.ledger import (
    Entry,
    ExportRegisters,
    SettlementLine,
    TransactionKind,
    merge_entries,
)
from gateway.core.tariff import ENERGY, EXPORT

TAX: Final = "tax"
CONTAINED: Final = "contained"


@dataclass(frozen=True, slots=True)
class PricedEnergy:
    """Wh of one rate cell. `rate` is None where no published version has the cell."""

    key: str
    rate: RateCell | None
    wh: int

    @property
    def amount_nano(self) -> int:
        """Wh times price: no rounding step exists."""
        return self.wh * self.rate.price_micro if self.rate else 0


@dataclass(frozen=True, slots=True)
class PricedFeedIn:
    """Wh that export registers show, and their price; None where the version has none."""

    registers: ExportRegisters
    price_micro: int | None

    @property
    def wh(self) -> int:
        """What was fed in."""
        return sum(self.registers.advance_wh)

    @property
    def amount_nano(self) -> int:
        """A credit: minus Wh times price."""
        return -self.wh * (self.price_micro or 0)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a tax is computed from: the period's cumulative amounts before and after a line."""

    terms: TaxTerms
    before_nano: int
    after_nano: int


@dataclass(frozen=True, slots=True)
class Component:
    """A charge that is no energy at a price: F of the period before and after this line.

    `basis` is there for a tax whose rule is a rate; without one F itself is all there is to see.
    """

    name: str
    amount_nano: int
    before_nano: int
    after_nano: int
    basis: Basis | None = None


@dataclass(frozen=True, slots=True)
class ExplainedLine:
    """A settlement line: its registers, and where each of its charges comes from."""

    line: SettlementLine
    version: int
    energy: tuple[PricedEnergy, ...]
    components: tuple[Component, ...]
    feed_in: PricedFeedIn | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A transaction of an account. `original` is the one that a reversal undoes."""

    posted: Posted
    lines: tuple[ExplainedLine, ...]
    original: Posted | None = None


# Whose cumulatives a line goes on from: point, tariff, version, period.
_TallyKey = tuple[str, str, int, str]


class Explainer:
    """Explains transactions in their order.

    What the periods had accumulated before the first of them is told by `remember`: all earlier
    lines of the periods that occur.
    """

    def __init__(self, rates: RateBook) -> None:
        self._rates = rates
        self._totals: dict[_TallyKey, dict[str, int]] = {}

    def remember(self, line: SettlementLine) -> None:
        """Count a line that comes before what is explained."""
        self._count(line, self._version(line))

    def take(self, posted: Posted, original: Posted | None = None) -> Explanation:
        """Explain the next transaction."""
        lines: list[ExplainedLine] = []
        for line in posted.lines:
            version = self._version(line)
            before = self._before(line, version)
            self._count(line, version)
            lines.append(
                ExplainedLine(
                    line=line,
                    version=version,
                    energy=tuple(
                        PricedEnergy(key, self._rates.cell(line.tariff_id, key), wh)
                        for key, wh in line.cells
                    ),
                    components=self._components(line, version, before),
                    feed_in=self._feed_in(line, version),
                )
            )
        return Explanation(posted, tuple(lines), original)

    # -- inside ----------------------------------------------------------------------------

    def _version(self, line: SettlementLine) -> int:
        """The version whose tally the line belongs to.

        Facts or cells name it. For a line of fees alone of an older program the version in force
        is tried first, then every other whose taxes fit.
        """
        version = self._rates.version_of(line)
        if line.cells or line.facts or not line.charges:
            return version
        for candidate in (version, *self._rates.versions(line.tariff_id)):
            if self._taxes_fit(line, candidate):
                return candidate
        return version

    def _taxes_fit(self, line: SettlementLine, version: int) -> bool:
        components = self._components(line, version, self._before(line, version))
        return not any(component_problem(component) for component in components)

    def _before(self, line: SettlementLine, version: int) -> Mapping[str, int]:
        return dict(self._totals.get(_tally_key(line, version), {}))

    def _count(self, line: SettlementLine, version: int) -> None:
        totals = self._totals.setdefault(_tally_key(line, version), {})
        for name, amount_nano in line.charges:
            totals[name] = totals.get(name, 0) + amount_nano

    def _feed_in(self, line: SettlementLine, version: int) -> PricedFeedIn | None:
        if line.export is None:
            return None
        return PricedFeedIn(line.export, self._rates.feed_in_micro(line.tariff_id, version))

    def _components(
        self, line: SettlementLine, version: int, before: Mapping[str, int]
    ) -> tuple[Component, ...]:
        after = dict(before)
        for name, amount_nano in line.charges:
            after[name] = after.get(name, 0) + amount_nano
        return tuple(
            Component(
                name=name,
                amount_nano=amount_nano,
                before_nano=before.get(name, 0),
                after_nano=after[name],
                basis=self._basis(line.tariff_id, version, name, before, after),
            )
            for name, amount_nano in line.charges
            if kind_of(name) not in (ENERGY, EXPORT)
        )

    def _basis(
        self,
        tariff_id: str,
        version: int,
        name: str,
        before: Mapping[str, int],
        after: Mapping[str, int],
    ) -> Basis | None:
        kind, _, tax = name.partition(":")
        terms = self._rates.tax(tariff_id, version, tax) if kind in (TAX, CONTAINED) else None
        if terms is None:
            return None
        return Basis(
            terms,
            sum(amount for part, amount in before.items() if terms.takes(part)),
            sum(amount for part, amount in after.items() if terms.takes(part)),
        )


def _tally_key(line: SettlementLine, version: int) -> _TallyKey:
    return (line.service_point_id, line.tariff_id, version, line.period)


def shortfalls(explanation: Explanation) -> tuple[str, ...]:
    """What does not add up, in words; empty when the explanation is exact."""
    posted = explanation.posted
    found: list[str] = []
    if posted.kind == TransactionKind.SETTLEMENT:
        if posted.own_nano != -posted.charged_nano:
            found.append(
                f"entries sum to {posted.own_nano} nano, the lines charge {posted.charged_nano}"
            )
    elif posted.own_nano + sum(e.amount_nano for e in posted.others) != 0:
        found.append("entries do not sum to zero")
    if explanation.original is not None and not _undoes(posted, explanation.original):
        found.append(f"does not undo transaction {explanation.original.seq}")
    if tuple(explained.line for explained in explanation.lines) != posted.lines:
        found.append("not every settlement line is explained")
    for explained in explanation.lines:
        place = f"meter {explained.line.meter_id}, {explained.line.period}"
        found += [f"{place}: {problem}" for problem in _line_problems(explained)]
    return tuple(found)


def component_problem(component: Component) -> str:
    """What is wrong with one component; empty when F(after) - F(before) is its amount."""
    if component.after_nano - component.before_nano != component.amount_nano:
        return f"{component.name} does not go from its cumulative before to the one after"
    basis = component.basis
    if basis is None:
        return ""
    sign = -1 if kind_of(component.name) == CONTAINED else 1
    states = ((basis.before_nano, component.before_nano), (basis.after_nano, component.after_nano))
    for basis_nano, cumulative_nano in states:
        if sign * basis.terms.of(basis_nano) != cumulative_nano:
            return (
                f"{component.name} is {cumulative_nano} nano on a basis of {basis_nano} at "
                f"{basis.terms.rate_ppm} ppm"
            )
    return ""


def _line_problems(explained: ExplainedLine) -> list[str]:
    line = explained.line
    found: list[str] = []
    charged: dict[str, int] = {component.name: component.amount_nano
                               for component in explained.components}  # fmt: skip
    for priced in explained.energy:
        if priced.rate is None:
            found.append(f"no price is known for {priced.key}")
            continue
        name = f"{ENERGY}:{priced.rate.source}"
        charged[name] = charged.get(name, 0) + priced.amount_nano
    if explained.feed_in is not None and explained.feed_in.amount_nano:
        charged[EXPORT] = explained.feed_in.amount_nano
    stated = dict(line.charges)
    found += [
        f"{name} is {stated.get(name, 0)} nano, {charged.get(name, 0)} are explained"
        for name in sorted(charged.keys() | stated.keys())
        if charged.get(name, 0) != stated.get(name, 0)
    ]
    counted_wh = sum(priced.wh for priced in explained.energy)
    if counted_wh != sum(line.advance_wh):
        found.append(f"{counted_wh} Wh are priced, {sum(line.advance_wh)} Wh were settled")
    found += [p for p in map(component_problem, explained.components) if p]
    return found


def _undoes(posted: Posted, original: Posted) -> bool:
    undone = [Entry(e.ledger_account, -e.amount_nano) for e in (*original.own, *original.others)]
    return merge_entries([*posted.own, *posted.others]) == merge_entries(undone)
