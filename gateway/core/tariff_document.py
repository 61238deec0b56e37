"""The text form of a tariff: what a person writes as YAML or JSON, checked as a whole.

    id: home
    name: Home
    currency: INR
    timezone: Asia/Kolkata
    effective_from: 2026-11-01T00:00:00+05:30
    grid:
      blocks: [{upto_kwh: 100, price: "3.50"}, {price: "4.50"}]   # or  price: "8.00"
    generator: {price: "25.00"}
    fixed: {amount: "50.00", collect: period_close}
    taxes: [{name: VAT, rate_percent: "18", on: [energy, fixed]}]

or, under a source, by time of use (the band without `when` is the rest of the week):

    bands:
      peak: {price: "9.00", when: [{days: [mon, tue], from: "18:00", to: "22:00"}]}
      offpeak: {price: "5.00"}

All problems are reported at once, each with its path.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.bands import DAYS_PER_WEEK, day_pieces
from gateway.core.civil import MINUTES_PER_DAY, local_instant, zone_of
from gateway.core.errors import RefusedError
from gateway.core.money import (
    INT64_MAX,
    Currency,
    DecimalCodes,
    parse_amount,
    parse_price,
    parse_scaled,
)
from gateway.core.requests import ID_PATTERN
from gateway.core.tariff import (
    GENERATOR,
    GRID,
    KWH_SCALE,
    ONLY_BAND,
    PERCENT_SCALE,
    PERIOD_CLOSE,
    PPM,
    TAX_BASES,
    WEEKDAYS,
    SourceTariff,
    Tariff,
    TaxRule,
    Window,
    clock_text,
)

MAX_BANDS: Final = 12
MAX_WINDOWS: Final = 48
MAX_BLOCKS: Final = 16
MAX_TAXES: Final = 8
MAX_PROBLEMS: Final = 50
MAX_NAME: Final = 100
YEARS: Final = range(2000, 2200)
TAX_KEYS: Final = ("name", "rate_percent", "on")

_BAND: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_TAX_NAME: Final = re.compile(r"[^\s:/][^:/]{0,38}[^\s:/]|[^\s:/]")
_PERCENT_CODES: Final = DecimalCodes("rate", "TARIFF_INVALID", "TARIFF_INVALID", "TARIFF_INVALID")
_KWH_CODES: Final = DecimalCodes("limit", "TARIFF_INVALID", "TARIFF_INVALID", "TARIFF_INVALID")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: error code, path such as `grid.blocks[1].price`, text."""

    code: str
    place: str
    message: str


class TariffProblemsError(RefusedError):
    """A tariff document is refused, with everything that is wrong with it in `problems`.

    The code is that of the problems when they share one (PRICE_PRECISION, ZONE_UNKNOWN, …), else
    TARIFF_INVALID.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        codes = {problem.code for problem in self.problems}
        super().__init__(
            codes.pop() if len(codes) == 1 else "TARIFF_INVALID",
            "\n".join(f"{problem.place}: {problem.message}" for problem in self.problems),
            self.problems[0].place,
        )


def tariff_from_document(
    document: Mapping[str, object], currency: Currency, *, version: int = 1
) -> Tariff:
    """The tariff that a document describes, as version `version` of its id.

    Raises TariffProblemsError with every problem found.
    """
    reader = _Reader(currency)
    tariff = reader.tariff(document, version)
    if reader.problems or tariff is None:
        raise TariffProblemsError(reader.problems)
    return tariff


class _Reader:
    """Walks a document once and collects problems instead of stopping at the first."""

    def __init__(self, currency: Currency) -> None:
        self.currency = currency
        self.problems: list[Problem] = []

    def report(self, place: str, message: str, code: str = "TARIFF_INVALID") -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, place, message))

    def attempt(self, parse: Callable[[], int], default: int = 0) -> int:
        """`parse()`, or `default` after reporting what it refused."""
        try:
            return parse()
        except RefusedError as refusal:
            self.report(refusal.place, refusal.message, refusal.refusal_code)
            return default

    def mapping(
        self, place: str, value: object, known: Sequence[str], required: Sequence[str] = ()
    ) -> dict[str, object]:
        """The value as a mapping of known keys; empty after a problem with its shape."""
        if not isinstance(value, Mapping):
            self.report(place, f"expected keys such as {', '.join(known)}")
            return {}
        found: dict[str, object] = {}
        for key, item in value.items():
            # YAML 1.1 reads a bare `on` as true.
            name = "on" if key is True else str(key)
            if name in known:
                found[name] = item
                continue
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            self.report(_join(place, name), f"unknown key{hint}")
        for name in required:
            if name not in found:
                self.report(_join(place, name), "is missing")
        return found

    def items(self, place: str, value: object, limit: int) -> list[tuple[str, object]]:
        """The elements of a non-empty list with their places; empty after a problem."""
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= limit:
            self.report(place, f"expected a list of 1 to {limit} entries")
            return []
        return [(f"{place}[{index}]", item) for index, item in enumerate(value)]

    def tariff(self, document: object, version: int) -> Tariff | None:
        known = (
            "id", "name", "currency", "timezone", "effective_from", GRID, GENERATOR, "fixed",
            "taxes",
        )  # fmt: skip
        keys = self.mapping("", document, known, known[:6])
        zone = self.zone(keys["timezone"]) if "timezone" in keys else None
        sources = tuple(
            source
            for name in (GRID, GENERATOR)
            if name in keys and (source := self.source(name, keys[name])) is not None
        )
        tariff_id = self.pattern("id", keys.get("id", "a"), ID_PATTERN, "lower-case id")
        name = keys.get("name", "")
        if "name" in keys and not _printable(name):
            self.report("name", f"expected a text of at most {MAX_NAME} characters")
        if keys.get("currency", self.currency.code) != self.currency.code:
            self.report("currency", f"this site keeps {self.currency.code}")
        effective_ms = self.instant(keys["effective_from"], zone) if "effective_from" in keys else 0
        fixed_nano = self.fixed(keys["fixed"]) if "fixed" in keys else 0
        taxes = self.taxes(keys["taxes"]) if "taxes" in keys else ()
        if self.problems or zone is None:
            return None
        return Tariff(
            tariff_id=tariff_id,
            version=version,
            name=str(name),
            currency=self.currency.code,
            zone=zone.key,
            effective_from_utc_ms=effective_ms,
            sources=sources,
            fixed_fee_nano=fixed_nano,
            taxes=taxes,
        )

    def pattern(self, place: str, value: object, pattern: re.Pattern[str], what: str) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.report(place, f"{value!r} is no {what}")
        return ""

    def zone(self, value: object) -> ZoneInfo | None:
        try:
            return zone_of(value)
        except RefusedError as refusal:
            self.report(refusal.place, refusal.message, refusal.refusal_code)
            return None

    def instant(self, value: object, zone: ZoneInfo | None) -> int:
        """UTC ms of a date (its local midnight) or of a date and time with an offset."""
        place = "effective_from"
        if zone is None:
            return 0
        moment = value
        if isinstance(value, str):
            try:
                moment = date.fromisoformat(value) if len(value) == 10 else _moment(value)
            except ValueError:
                moment = None
        if isinstance(moment, datetime):
            if moment.tzinfo is not None and moment.year in YEARS:
                since = moment - _EPOCH
                if since % timedelta(milliseconds=1) == timedelta(0):
                    return since // timedelta(milliseconds=1)
        elif isinstance(moment, date) and moment.year in YEARS:
            return local_instant(zone, moment, 0)
        self.report(
            place,
            f"{value!r}: write a date (local midnight) or a time with its offset, "
            "such as 2026-11-01T00:00:00+05:30, between 2000 and 2199",
        )
        return 0

    def source(self, name: str, value: object) -> SourceTariff | None:
        """One source: exactly one of `price`, `blocks`, `bands`."""
        before = len(self.problems)
        keys = self.mapping(name, value, ("price", "blocks", "bands"))
        if len(keys) != 1:
            if len(self.problems) == before:
                self.report(name, "give exactly one of price, blocks, bands")
            return None
        if "bands" not in keys:
            rows = {ONLY_BAND: self.row(name, keys)}
            windows: tuple[Window, ...] = ()
            rest: str | None = ONLY_BAND
        else:
            rows, windows, rest = self.bands(_join(name, "bands"), keys["bands"])
        if len(self.problems) > before:
            return None
        limits = tuple(sorted({limit for row in rows.values() for limit, _ in row[:-1]}))
        return SourceTariff(
            source=name,
            bands=tuple(rows),
            windows=windows,
            rest_band=rest,
            block_limits_wh=limits,
            prices_micro=tuple(_refine(row, limits) for row in rows.values()),
        )

    def bands(
        self, place: str, value: object
    ) -> tuple[dict[str, list[tuple[int, int]]], tuple[Window, ...], str | None]:
        rows: dict[str, list[tuple[int, int]]] = {}
        windows: list[Window] = []
        rests: list[str] = []
        if not isinstance(value, Mapping) or not 1 <= len(value) <= MAX_BANDS:
            self.report(place, f"expected 1 to {MAX_BANDS} named bands")
            return rows, (), None
        # Sorted, so that a document means the same whatever order its keys were stored in.
        for key, item in sorted(value.items(), key=lambda entry: str(entry[0])):
            here = _join(place, str(key))
            band = self.pattern(here, key, _BAND, "band name such as 'peak'")
            keys = self.mapping(here, item, ("price", "blocks", "when"))
            prices: dict[str, object] = {
                name: keys[name] for name in ("price", "blocks") if name in keys
            }
            if len(prices) != 1:
                self.report(here, "give exactly one of price, blocks")
            else:
                rows[band] = self.row(here, prices)
            if "when" in keys:
                windows.extend(self.windows(_join(here, "when"), keys["when"], band))
            else:
                rests.append(band)
        if len(rests) > 1:
            self.report(place, f"only one band may go without `when`, not {', '.join(rests)}")
        if len(windows) > MAX_WINDOWS:
            self.report(place, f"more than {MAX_WINDOWS} windows")
        else:
            self.week(place, tuple(windows), rests)
        return rows, tuple(windows), rests[0] if rests else None

    def windows(self, place: str, value: object, band: str) -> list[Window]:
        windows: list[Window] = []
        for here, item in self.items(place, value, MAX_WINDOWS):
            before = len(self.problems)
            keys = self.mapping(here, item, ("days", "from", "to"), ("from", "to"))
            start = self.minute(_join(here, "from"), keys["from"]) if "from" in keys else 0
            end = self.minute(_join(here, "to"), keys["to"]) if "to" in keys else 0
            days = self.days(_join(here, "days"), keys.get("days", WEEKDAYS))
            if len(self.problems) > before:
                continue
            if start in (end, MINUTES_PER_DAY):
                self.report(here, "is empty; a whole day runs from 00:00 to 24:00")
            else:
                windows.append(Window(band, days, start, end))
        return windows

    def minute(self, place: str, value: object) -> int:
        if not isinstance(value, str) or not _TIME.fullmatch(value):
            # Without quotes YAML 1.1 reads 18:00 as the number 1080.
            self.report(place, f'{value!r} is no quoted time such as "18:00"')
            return 0
        hours, minutes = value.split(":")
        return int(hours) * 60 + int(minutes)

    def days(self, place: str, value: object) -> frozenset[int]:
        days: set[int] = set()
        for here, item in self.items(place, value, len(WEEKDAYS)):
            if not isinstance(item, str) or item not in WEEKDAYS:
                self.report(here, f"{item!r} is none of {', '.join(WEEKDAYS)}")
            elif WEEKDAYS.index(item) in days:
                self.report(here, f"{item} stands twice")
            else:
                days.add(WEEKDAYS.index(item))
        return frozenset(days)

    def week(self, place: str, windows: tuple[Window, ...], rests: Sequence[str]) -> None:
        """Every minute of the week has exactly one band."""
        left_over = False
        for day_type, day in enumerate(WEEKDAYS):
            minute = 0
            for piece in day_pieces(windows, day_type, (day_type - 1) % DAYS_PER_WEEK):
                if piece.from_minute < minute:
                    clock = clock_text(piece.from_minute)
                    self.report(place, f"windows overlap on {day} from {clock}")
                elif piece.from_minute > minute:
                    left_over = True
                    self.gap(place, day, minute, piece.from_minute, rests)
                minute = max(minute, piece.to_minute)
            if minute < MINUTES_PER_DAY:
                left_over = True
                self.gap(place, day, minute, MINUTES_PER_DAY, rests)
        if rests and not left_over:
            self.report(place, f"no time is left for {rests[0]}, the band without `when`")

    def gap(self, place: str, day: str, start: int, end: int, rests: Sequence[str]) -> None:
        if not rests:
            self.report(place, f"no band covers {day} {clock_text(start)}-{clock_text(end)}")

    def row(self, place: str, keys: Mapping[str, object]) -> list[tuple[int, int]]:
        """(upper limit in Wh, price) per block; the last block is open, its limit 0."""
        if "price" in keys:
            return [(0, self.price(_join(place, "price"), keys["price"]))]
        row: list[tuple[int, int]] = []
        blocks = self.items(_join(place, "blocks"), keys["blocks"], MAX_BLOCKS)
        for index, (here, item) in enumerate(blocks):
            last = index == len(blocks) - 1
            wanted = ("price",) if last else ("upto_kwh", "price")
            found = self.mapping(here, item, ("upto_kwh", "price"), wanted)
            limit_wh = 0
            if last and found.get("upto_kwh") is not None:
                self.report(_join(here, "upto_kwh"), "the last block is open: leave this out")
            elif not last and "upto_kwh" in found:
                before = len(self.problems)
                limit_wh = self.limit(_join(here, "upto_kwh"), found["upto_kwh"])
                below_wh = row[-1][0] if row else 0
                if len(self.problems) == before and limit_wh <= below_wh:
                    self.report(_join(here, "upto_kwh"), "limits must rise from block to block")
            price = self.price(_join(here, "price"), found["price"]) if "price" in found else 0
            row.append((limit_wh, price))
        return row

    def limit(self, place: str, value: object) -> int:
        return self.attempt(lambda: parse_scaled(value, KWH_SCALE, INT64_MAX, _KWH_CODES, place))

    def price(self, place: str, value: object) -> int:
        return self.positive(place, self.attempt(lambda: parse_price(value, self.currency, place)))

    def positive(self, place: str, value: int) -> int:
        if value < 0:
            self.report(place, "must not be negative")
        return value

    def fixed(self, value: object) -> int:
        keys = self.mapping("fixed", value, ("amount", "collect"), ("amount",))
        if keys.get("collect", PERIOD_CLOSE) != PERIOD_CLOSE:
            self.report("fixed.collect", f"only {PERIOD_CLOSE} is known")
        if "amount" not in keys:
            return 0
        amount = self.attempt(lambda: parse_amount(keys["amount"], self.currency, "fixed.amount"))
        return self.positive("fixed.amount", amount)

    def taxes(self, value: object) -> tuple[TaxRule, ...]:
        if value in ([], ()):
            return ()
        rules: list[TaxRule] = []
        for here, item in self.items("taxes", value, MAX_TAXES):
            keys = self.mapping(here, item, TAX_KEYS, TAX_KEYS)
            if len(keys) < 3:
                continue
            name = self.pattern(_join(here, "name"), keys["name"], _TAX_NAME, "tax name")
            if name in {rule.name for rule in rules}:
                self.report(_join(here, "name"), f"{name} stands twice")
            if not name.isprintable():
                self.report(_join(here, "name"), "has characters that cannot be printed")
            rules.append(TaxRule(name, self.rate(here, keys), self.bases(here, keys["on"])))
        return tuple(rules)

    def rate(self, here: str, keys: Mapping[str, object]) -> int:
        place = _join(here, "rate_percent")
        return self.positive(
            place,
            self.attempt(
                lambda: parse_scaled(
                    keys["rate_percent"], PERCENT_SCALE, PPM, _PERCENT_CODES, place
                )
            ),
        )

    def bases(self, here: str, value: object) -> tuple[str, ...]:
        named = self.items(_join(here, "on"), value, len(TAX_BASES))
        for place, item in named:
            if item not in TAX_BASES:
                self.report(place, f"{item!r} is none of {', '.join(TAX_BASES)}")
        chosen = [item for _, item in named]
        if len({str(item) for item in chosen}) < len(chosen):
            self.report(_join(here, "on"), "a base stands twice")
        return tuple(base for base in TAX_BASES if base in chosen)


def _refine(row: Sequence[tuple[int, int]], limits: Sequence[int]) -> tuple[int, ...]:
    """The row's prices on limits that are at least as fine as its own."""
    prices: list[int] = []
    index = 0
    for limit_wh in limits:
        while index < len(row) - 1 and row[index][0] < limit_wh:
            index += 1
        prices.append(row[index][1])
    return (*prices, row[-1][1])


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment


def _printable(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
