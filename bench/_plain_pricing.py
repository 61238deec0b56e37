"""The rival of `bench.pricing`: prices with decimals and datetimes, as one writes it first.

Same rules, same sums: the local time of each reading picks the band, the energy of the month the
block, taxes are floored on what the month has cost so far. Nothing is prepared, nothing cached, and
nothing of fees, rebates, gaps or restarts is known.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

NANO: Final = Decimal("0.000000001")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PlainPricer:
    """What one account has used this month and owes for it, under a tariff's document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._zone = ZoneInfo(document["timezone"])
        self._sources = {name: document[name] for name in ("grid", "generator")}
        self._taxes = [
            Decimal(str(tax["rate_percent"])) / 100
            for tax in cast("list[Mapping[str, Any]]", document.get("taxes", []))
        ]
        self._month = ""
        self._used_wh: dict[str, int] = {}
        self.energy = Decimal(0)

    def advance(self, source: str, wh: int, to_utc_ms: int) -> Decimal:
        """Charge the Wh of a reading; what the month comes to, taxes included."""
        local = (_EPOCH + timedelta(milliseconds=to_utc_ms)).astimezone(self._zone)
        month = f"{local:%Y-%m}"
        if month != self._month:
            self._month, self._used_wh, self.energy = month, {}, Decimal(0)
        prices = self._sources[source]
        if "bands" in prices:
            prices = prices["bands"][self._band(prices["bands"], f"{local:%H:%M}")]
        used = self._used_wh.get(source, 0)
        self._used_wh[source] = used + wh
        for part_wh, price in self._parts(prices, used, wh):
            self.energy += Decimal(part_wh) / 1000 * Decimal(price)
        taxes = [(self.energy * rate).quantize(NANO, ROUND_FLOOR) for rate in self._taxes]
        return self.energy + sum(taxes)

    @staticmethod
    def _band(bands: Mapping[str, Any], clock: str) -> str:
        for name, band in bands.items():
            for window in band.get("when", ()):
                if window["from"] <= clock < window["to"]:
                    return name
        return next(name for name, band in bands.items() if "when" not in band)

    @staticmethod
    def _parts(prices: Mapping[str, Any], used_wh: int, wh: int) -> list[tuple[int, str]]:
        if "blocks" not in prices:
            return [(wh, prices["price"])]
        parts: list[tuple[int, str]] = []
        for block in prices["blocks"]:
            limit_wh = block["upto_kwh"] * 1000 if "upto_kwh" in block else used_wh + wh
            part_wh = max(0, min(wh, limit_wh - used_wh))
            if part_wh:
                parts.append((part_wh, block["price"]))
            used_wh, wh = used_wh + part_wh, wh - part_wh
        return parts
