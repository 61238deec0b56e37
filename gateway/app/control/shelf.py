"""Published tariffs in memory, as core objects."""

from collections.abc import Iterable, Mapping

from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.store.registry import TariffVersion


class TariffShelf:
    """All versions of all tariffs of the site, oldest first."""

    def __init__(self, versions: Iterable[TariffVersion], currency: Currency) -> None:
        self._tariffs: dict[str, list[Tariff]] = {}
        for item in versions:
            self.add(tariff_from_document(item.document, currency, version=item.version))

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
        """Whether no version's price depends on the time of day."""
        return all(
            len(source.bands) == 1 for tariff in self.known(tariff_id) for source in tariff.sources
        )

    def check_next(self, tariff: Tariff, *, label_utc_ms: int, in_use: bool) -> None:
        """Refuse a version that would change the past or stand before another one.

        Raises RefusedError TARIFF_RETROACTIVE or TARIFF_ORDER.
        """
        known = self.known(tariff.tariff_id)
        if in_use and tariff.effective_from_utc_ms < label_utc_ms:
            raise RefusedError(
                "TARIFF_RETROACTIVE",
                "a version of a tariff in use takes effect in the future",
                "effective_from",
            )
        if known and tariff.effective_from_utc_ms <= known[-1].effective_from_utc_ms:
            raise RefusedError(
                "TARIFF_ORDER",
                f"version {known[-1].version} takes effect at the same time or later",
                "effective_from",
            )

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
