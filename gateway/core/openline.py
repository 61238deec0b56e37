"""The settlement line that is being filled: registers at its start, what was settled since, why.

Registers move with every reading and are posted now and then. Each line begins where the one before
ended (invariant I4), and the last line of a posting ends at the registers as they were read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.core.ledger import SettlementLine
from gateway.core.pricing import Posting


@dataclass(frozen=True, slots=True)
class LineNames:
    """Whose energy a line settles."""

    account_id: str
    service_point_id: str
    meter_id: str
    tariff_id: str
    sources: tuple[str, ...]


class OpenLine:
    """What one meter settled since its last line. `from_wh` is None until registers are known."""

    def __init__(self) -> None:
        self.from_wh: tuple[int, ...] | None = None
        self._from_utc_ms = 0
        self._advance_wh: tuple[int, ...] = ()
        self._flags: set[str] = set()

    def begin(self, registers_wh: tuple[int, ...] | None, utc_ms: int, registers: int) -> None:
        """Start at these registers."""
        self.from_wh = registers_wh
        self._from_utc_ms = utc_ms
        self._advance_wh = (0,) * registers
        self._flags.clear()

    def add(self, advance_wh: Sequence[int]) -> None:
        """Energy was settled, per register."""
        self._advance_wh = tuple(a + b for a, b in zip(self._advance_wh, advance_wh, strict=True))

    def flag(self, names: Iterable[str]) -> None:
        """Something is to be known of this line."""
        self._flags.update(names)

    def lines(
        self,
        postings: Sequence[Posting],
        names: LineNames,
        *,
        registers_wh: tuple[int, ...],
        to_utc_ms: int,
        period: str,
    ) -> list[SettlementLine]:
        """One line per period and tariff version; the last one ends at the registers as read.

        `period` names a line that only moves registers.
        """
        from_wh = self.from_wh
        if from_wh is None:
            return []
        if not postings:
            # Registers that moved without a charge (a rebase) are kept for the proof all the same.
            if not self._flags and from_wh == registers_wh:
                return []
            postings = [Posting(period, names.tariff_id, 0, (), ())]
        lines: list[SettlementLine] = []
        left_wh = list(self._advance_wh)
        for number, posting in enumerate(postings, start=1):
            is_last = number == len(postings)
            advance_wh = tuple(left_wh) if is_last else _share(names.sources, posting, left_wh)
            for register, wh in enumerate(advance_wh):
                left_wh[register] -= wh
            to_wh = tuple(a + b for a, b in zip(from_wh, advance_wh, strict=True))
            lines.append(
                SettlementLine(
                    account_id=names.account_id,
                    service_point_id=names.service_point_id,
                    meter_id=names.meter_id,
                    tariff_id=names.tariff_id,
                    period=posting.period,
                    from_utc_ms=self._from_utc_ms,
                    to_utc_ms=to_utc_ms,
                    from_wh=from_wh,
                    to_wh=registers_wh if is_last else to_wh,
                    advance_wh=advance_wh,
                    cells=tuple((cell.key, wh) for cell, wh in posting.cells),
                    charges=posting.charges,
                    flags=tuple(sorted(self._flags.union(posting.flags))),
                    facts=(posting.tariff_version, *(int(fact) for fact in posting.facts)),
                )
            )
            from_wh = to_wh
        return lines

    def snapshot(self) -> dict[str, object]:
        """JSON values from which `restore` goes on."""
        return {
            "line_from_wh": self.from_wh,
            "line_from_utc_ms": self._from_utc_ms,
            "advance_wh": self._advance_wh,
            "flags": sorted(self._flags),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take up a snapshot."""
        from_wh = cast("Sequence[int] | None", state["line_from_wh"])
        self.from_wh = None if from_wh is None else tuple(from_wh)
        self._from_utc_ms = cast("int", state["line_from_utc_ms"])
        self._advance_wh = tuple(cast("Sequence[int]", state["advance_wh"]))
        self._flags = set(cast("Sequence[str]", state["flags"]))


def _share(sources: Sequence[str], posting: Posting, left_wh: Sequence[int]) -> tuple[int, ...]:
    """How much of each register's advance a posting that is not the last one covers."""
    by_source: dict[str, int] = {}
    for cell, wh in posting.cells:
        by_source[cell.source] = by_source.get(cell.source, 0) + wh
    shares: list[int] = []
    for source, wh in zip(sources, left_wh, strict=True):
        share_wh = min(wh, by_source.get(source, 0))
        by_source[source] = by_source.get(source, 0) - share_wh
        shares.append(share_wh)
    return tuple(shares)
