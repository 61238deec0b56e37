"""A draft of a tariff against what the ledger settled: the stores are only read.

Energy comes from settlement lines, which are kept for good and were judged by the guard; readings
say only on which side of a rate change of the draft it flowed, as long as retention keeps them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.app.config import Config, PointConfig
from gateway.app.control.shelf import TariffShelf
from gateway.app.paths import Paths, paths_of
from gateway.core.civil import civil_day, midnight, zone_of
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.ledger import SettlementLine
from gateway.core.money import Currency
from gateway.core.repricing import Outcome, Repricing, Settled
from gateway.core.repricing_course import CoursePoint, Rate
from gateway.core.tariff import Tariff
from gateway.south.metering import metering
from gateway.store.accounts import AccountPoint, points_since
from gateway.store.ledger import LEDGER, ledger_head, read_site
from gateway.store.reader import StoreReader
from gateway.store.registry import read_accounts, read_tariffs
from gateway.store.statements import (
    LINES_PAGE,
    RECHARGES_SPAN,
    last_posted_utc_ms,
    last_seq_before,
    lines_after,
    recharges_after,
)
from gateway.store.telemetry_reader import TelemetryReader

DAYS_MAX: Final = 3_660
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ReplayWish:
    """Which accounts: those named, and those under the tariffs named; else the draft's own id."""

    draft: Tariff
    days: int
    accounts: tuple[str, ...] = ()
    tariff_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountReplay:
    """One account in the window: Wh and nano-units, by component, of all its points."""

    account_id: str
    energy_wh: int
    charged: Mapping[str, int]
    draft: Mapping[str, int]
    estimated_wh: int
    unexplained_nano: int

    @property
    def charged_nano(self) -> int:
        """What it was charged."""
        return sum(self.charged.values())

    @property
    def draft_nano(self) -> int:
        """What it would have been charged."""
        return sum(self.draft.values())

    @property
    def difference_nano(self) -> int:
        """More (or, below zero, less) under the draft."""
        return self.draft_nano - self.charged_nano


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The window [from, until) and its accounts, the biggest difference first."""

    from_utc_ms: int
    until_utc_ms: int
    accounts: tuple[AccountReplay, ...]


def replay_tariff(
    config: Config, wish: ReplayWish, progress: Progress, *, account_days_max: int = 0
) -> ReplayReport:
    """Price what was settled since local midnight `days` days ago under a draft.

    `account_days_max` bounds accounts times days; 0 is no bound.
    Raises RefusedError ACCOUNT_UNKNOWN, TARIFF_UNKNOWN, NO_ACCOUNTS, REPLAY_TOO_BIG,
    NOTHING_SETTLED, SOURCE_UNPRICED; StoreAwayError.
    """
    reader = StoreReader(paths_of(config).ledger, LEDGER)
    try:
        return _Run(config, wish, reader).report(progress, account_days_max)
    finally:
        reader.close()


class _Run:
    def __init__(self, config: Config, wish: ReplayWish, reader: StoreReader) -> None:
        self._config = config
        self._wish = wish
        self._reader = reader
        paths: Paths = paths_of(config)
        self._telemetry = TelemetryReader(paths.telemetry_dir)
        self._meters = {meter.meter_id: meter for meter in config.points}
        self._by_point = {meter.service_point_id: meter for meter in config.points}
        site = reader.read(read_site)
        self._currency = Currency(site.currency, site.money_scale, site.minor_digits)
        self._shelf = TariffShelf((), self._currency)
        self._opened_utc_ms = {
            account.account_id: account.opened_utc_ms for account in reader.read(read_accounts)
        }
        self._head_seq = reader.read(ledger_head).seq
        self._until_utc_ms = reader.read(last_posted_utc_ms)
        zone = zone_of(site.zone)
        day = civil_day(zone, self._until_utc_ms) - wish.days
        self._from_utc_ms = midnight(zone, max(0, day))

    def report(self, progress: Progress, account_days_max: int) -> ReplayReport:
        by_account: dict[str, list[tuple[AccountPoint, Repricing]]] = defaultdict(list)
        asked_for = self._stays()
        self._check_size(len({stay.account_id for stay in asked_for}), account_days_max)
        for stay in asked_for:
            by_account[stay.account_id].append((stay, self._replay(stay)))
        after = {
            account_id: self._seq_before(min(replay.warm_utc_ms for _, replay in stays))
            for account_id, stays in by_account.items()
        }
        recharges = self._recharges(min(after.values(), default=self._head_seq))
        found: list[AccountReplay] = []
        for done, (account_id, stays) in enumerate(by_account.items()):
            progress(done, len(by_account))
            lines = self._lines(account_id, after[account_id])
            if any(_known_until(line) > self._from_utc_ms for _, line in lines):
                money = [item for item in recharges[account_id] if item[0] > after[account_id]]
                outcomes = self._outcomes(stays, lines, money)
                found.append(_summed(account_id, outcomes))
        progress(len(by_account), len(by_account))
        if not found:
            raise RefusedError(
                "NOTHING_SETTLED",
                f"no energy of these accounts was settled in the last {self._wish.days} days",
                "days",
            )
        found.sort(key=lambda item: (-abs(item.difference_nano), item.account_id))
        return ReplayReport(self._from_utc_ms, self._until_utc_ms, tuple(found))

    def _check_size(self, accounts: int, account_days_max: int) -> None:
        days = self._wish.days
        if account_days_max and accounts * days > account_days_max:
            raise RefusedError(
                "REPLAY_TOO_BIG",
                f"{accounts} accounts and {days} days are more than {account_days_max} days of an "
                "account at once: name fewer days or some accounts, or run `prepaid-gateway tariff "
                "replay` on the gateway, which has no such bound",
                "days",
            )

    def _stays(self) -> list[AccountPoint]:
        """The stays that were asked for and lasted into the window."""
        wish = self._wish
        for account_id in wish.accounts:
            if account_id not in self._opened_utc_ms:
                raise RefusedError(
                    "ACCOUNT_UNKNOWN", f"there is no account {account_id}", "account"
                )
        tariff_ids = wish.tariff_ids
        versions = self._reader.read(read_tariffs)
        for tariff_id in tariff_ids:
            if tariff_id not in {version.tariff_id for version in versions}:
                raise RefusedError(
                    "TARIFF_UNKNOWN", f"tariff {tariff_id} was never published", "tariff_id"
                )
        if not wish.accounts and not tariff_ids:
            # It may be new: nobody is under it then.
            tariff_ids = (wish.draft.tariff_id,)
        stays = [
            stay
            for stay in self._reader.read(lambda c: points_since(c, self._from_utc_ms))
            if stay.account_id in wish.accounts or stay.tariff_id in tariff_ids
        ]
        if not stays and not wish.accounts:
            raise RefusedError(
                "NO_ACCOUNTS",
                f"no account was under tariff {', '.join(tariff_ids)} in these days: name accounts "
                "or another tariff to compare with",
                "tariff_id",
            )
        in_force = {stay.tariff_id for stay in stays}
        self._shelf = TariffShelf(
            (version for version in versions if version.tariff_id in in_force), self._currency
        )
        return stays

    def _replay(self, stay: AccountPoint) -> Repricing:
        versions = self._shelf.versions(stay.tariff_id)
        meter = self._by_point.get(stay.service_point_id)
        sources = [one.source for one in versions[0].sources] if meter is None else _sources(meter)
        return Repricing(
            versions,
            self._wish.draft,
            start_utc_ms=stay.from_utc_ms,
            joined=stay.joined,
            opened_utc_ms=self._opened_utc_ms[stay.account_id],
            sources=sources,
            window_utc_ms=self._from_utc_ms,
            gap_ms=round(self._config.posting.gap_s * 1000),
        )

    def _outcomes(
        self,
        stays: Sequence[tuple[AccountPoint, Repricing]],
        lines: Sequence[tuple[int, SettlementLine]],
        recharges: Sequence[tuple[int, int]],
    ) -> list[Outcome]:
        """The events of an account, in the order of the ledger, through each of its stays."""
        rounds: dict[tuple[int, int], list[SettlementLine]] = defaultdict(list)
        for seq, line in lines:
            place = _stay_of(line, [stay for stay, _ in stays])
            if place is not None:
                rounds[seq, place].append(line)
        outcomes: list[Outcome] = []
        for place, (stay, replay) in enumerate(stays):
            end_ms = stay.to_utc_ms or self._until_utc_ms
            for earlier, before in stays[:place]:
                if stay.joined and _leads_to(earlier, stay):
                    replay.go_on(before.counted)
            events: list[tuple[int, int | list[SettlementLine]]] = [
                (seq, group) for (seq, index), group in rounds.items() if index == place
            ]
            events += [
                (seq, utc_ms) for seq, utc_ms in recharges if stay.from_utc_ms <= utc_ms <= end_ms
            ]
            for _, event in sorted(events, key=lambda item: item[0]):
                if isinstance(event, int):
                    replay.recharged(event)
                else:
                    replay.settled(settled_of(event), self._readings(event))
            outcomes.append(replay.finish(self._until_utc_ms, stay.to_utc_ms or 0))
        return outcomes

    def _readings(self, lines: Sequence[SettlementLine]) -> Callable[[], list[CoursePoint]]:
        return lambda: readings_of(self._telemetry, lines, self._meters.get(lines[0].meter_id))

    # -- looks -----------------------------------------------------------------------------

    def _seq_before(self, utc_ms: int) -> int:
        return self._reader.read(lambda c: last_seq_before(c, utc_ms))

    def _lines(self, account_id: str, after_seq: int) -> list[tuple[int, SettlementLine]]:
        found: list[tuple[int, SettlementLine]] = []
        while True:
            page = self._reader.read(
                partial(
                    lines_after,
                    account_id=account_id,
                    after_seq=after_seq,
                    to_seq=self._head_seq,
                    limit=LINES_PAGE,
                )
            )
            if not page:
                return found
            found += page
            after_seq = page[-1][0]

    def _recharges(self, after_seq: int) -> Mapping[str, list[tuple[int, int]]]:
        """Transaction and time of every recharge, by account."""
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        while after_seq < self._head_seq:
            page = self._reader.read(
                partial(recharges_after, after_seq=after_seq, to_seq=self._head_seq)
            )
            for seq, utc_ms, account_id in page:
                found[account_id].append((seq, utc_ms))
            after_seq += RECHARGES_SPAN
        return found


def settled_of(lines: Sequence[SettlementLine]) -> Settled:
    """The lines of one transaction and point as one posting."""
    cells: Counter[Rate] = Counter()
    charges: Counter[tuple[str, str]] = Counter()
    fed: Counter[tuple[str, int]] = Counter()
    accrued_ms = ended_ms = 0
    for line in lines:
        for key, wh in line.cells:
            version, source, rest = key.split("/", 2)
            cells[Rate(line.period, int(version), source, rest.rpartition("/")[0])] += wh
        for component, amount_nano in line.charges:
            charges[line.period, component] += amount_nano
        if line.facts:
            fed[line.period, line.facts[0]] += line.fed_wh
            # Version, then `Facts`: accrued, recharged, complete, ended.
            accrued_ms, ended_ms = max(accrued_ms, line.facts[1]), max(ended_ms, line.facts[4])
    return Settled(
        from_utc_ms=lines[0].from_utc_ms,
        to_utc_ms=lines[0].to_utc_ms,
        cells=cells,
        charges=charges,
        accrued_utc_ms=accrued_ms,
        ended_utc_ms=ended_ms,
        fed=fed,
    )


def readings_of(
    telemetry: TelemetryReader, lines: Sequence[SettlementLine], meter: PointConfig | None
) -> list[CoursePoint]:
    """The readings inside a posting's time, as Wh by source since its start.

    None where its registers moved otherwise than by use, the meter is no longer configured, or the
    readings cannot be looked at now.
    """
    first, last = lines[0], lines[-1]
    advance = [sum(column) for column in zip(*(line.advance_wh for line in lines), strict=True)]
    moved = [end - begin for begin, end in zip(first.from_wh, last.to_wh, strict=True)]
    if meter is None or advance != moved:
        return []
    sources = _sources(meter)
    try:
        points = telemetry.registers(first.meter_id, first.from_utc_ms + 1, first.to_utc_ms)
    except StoreAwayError:
        # Retention deletes files at any time; what they would tell is estimated then.
        return []
    found: list[CoursePoint] = []
    for point in points:
        wh: Counter[str] = Counter()
        for source, begin, now in zip(sources, first.from_wh, point.energy_wh, strict=False):
            wh[source] += now - begin
        found.append(CoursePoint(point.utc_ms, wh))
    return found


def _sources(meter: PointConfig) -> tuple[str, ...]:
    """The energy source behind each import register."""
    registers = len(metering(meter.model).energy_import)
    return (meter.settings.t1_source, meter.settings.t2_source)[:registers]


def _stay_of(line: SettlementLine, stays: Sequence[AccountPoint]) -> int | None:
    """The newest stay that a line can belong to."""
    for place in range(len(stays) - 1, -1, -1):
        stay = stays[place]
        if (
            stay.service_point_id == line.service_point_id
            and stay.tariff_id == line.tariff_id
            and stay.from_utc_ms <= line.to_utc_ms
            and (stay.to_utc_ms is None or line.from_utc_ms <= stay.to_utc_ms)
        ):
            return place
    return None


def _leads_to(earlier: AccountPoint, stay: AccountPoint) -> bool:
    """Whether a stay began where another one of the same point ended."""
    same = earlier.service_point_id == stay.service_point_id
    return same and earlier.to_utc_ms == stay.from_utc_ms


def _known_until(line: SettlementLine) -> int:
    """Up to when a line charges energy or fees."""
    return max(line.to_utc_ms, line.facts[1] if line.facts else 0)


def _summed(account_id: str, outcomes: Iterable[Outcome]) -> AccountReplay:
    energy_wh = estimated_wh = unexplained_nano = 0
    charged: Counter[str] = Counter()
    draft: Counter[str] = Counter()
    for outcome in outcomes:
        energy_wh += outcome.energy_wh
        estimated_wh += outcome.estimated_wh
        unexplained_nano += sum(outcome.unexplained.values())
        charged.update(outcome.charged)
        draft.update(outcome.draft)
    return AccountReplay(account_id, energy_wh, charged, draft, estimated_wh, unexplained_nano)
