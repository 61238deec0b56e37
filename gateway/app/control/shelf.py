"""Published tariffs in memory, as core objects."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.pricing import check_schedule
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.store.registry import TariffVersion

# Readings go on while a version is committed: it must not have begun by then.
NOTICE_MS: Final = 60_000


class TariffShelf:
    """All versions of all tariffs of the site, oldest first."""

    def __init__(self, versions: Iterable[TariffVersion], currency: Currency) -> None:
        self._tariffs: dict[str, list[Tariff]] = {}
        stored = currency.as_stored()
        for item in versions:
            self.add(tariff_from_document(item.document, stored, version=item.version))

    def known(self, tariff_id: str) -> tuple[Tariff, ...]:
        """The versions of a tariff; empty when it was never published."""
        return tuple(self._tariffs.get(tariff_id, ()))

    def versions(self, tariff_id: str) -> tuple[Tariff, ...]:
        """The versions of a tariff. Raises RefusedError TARIFF_UNKNOWN."""
        found = self.known(tariff_id)
        if not found:
            raise RefusedError(
                "TARIFF_UNKNOWN", f"tariff {tariff_id} was never published", "tariff_id"
            )
        return found

    def is_flat(self, tariff_id: str) -> bool:
        """Whether no version's price of a Wh depends on the time of day, the day or the season."""
        return not any(tariff.depends_on_time for tariff in self.known(tariff_id))

    def check_next(
        self,
        tariff: Tariff,
        *,
        label_utc_ms: int,
        users_sources: Collection[tuple[str, ...]],
    ) -> None:
        """Refuse a version that would change the past or not fit those before it.

        `users_sources` are the energy sources of the points under this tariff. Raises RefusedError
        TARIFF_RETROACTIVE, TARIFF_ORDER, TARIFF_MIXED, SOURCE_UNPRICED.
        """
        if users_sources and tariff.effective_from_utc_ms < label_utc_ms + NOTICE_MS:
            raise RefusedError(
                "TARIFF_RETROACTIVE",
                "a version of a tariff in use takes effect a minute ahead at the earliest",
                "effective_from",
            )
        versions = [*self.known(tariff.tariff_id), tariff]
        for sources in users_sources or {()}:
            check_schedule(versions, sources)

    def add(self, tariff: Tariff) -> None:
        """Put a published version on the shelf."""
        self._tariffs.setdefault(tariff.tariff_id, []).append(tariff)

    @staticmethod
    def version_of(
        tariff: Tariff, document: Mapping[str, object], published_utc_ms: int, actor: str
    ) -> TariffVersion:
        """The row that keeps a version, its document as it was given."""
        return TariffVersion(
            tariff_id=tariff.tariff_id,
            version=tariff.version,
            effective_from_utc_ms=tariff.effective_from_utc_ms,
            document=document,
            published_utc_ms=published_utc_ms,
            actor=actor,
        )
