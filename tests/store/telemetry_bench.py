"""A telemetry writer and reader of one directory, with readings that can be computed again."""

from datetime import UTC, datetime

from gateway.store.db import DirectoryOwner
from gateway.store.live import LiveMeter
from gateway.store.telemetry import MeterReading, TelemetryWriter
from gateway.store.telemetry_reader import TelemetryReader, ValuePoint

NAMES = ("voltage_l1_n_v", "energy_import_t1_wh", "outputs_bits")
METERS = tuple(LiveMeter(f"flat-{number}", NAMES) for number in range(20))


def at(text: str) -> int:
    """Milliseconds of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOON = at("2026-11-20T12:00:00")
FAR = at("2030-01-01T00:00:00")


class Bench:
    """A writer and a reader of one directory, with readings that can be computed again."""

    def __init__(self, owner: DirectoryOwner, **options: object) -> None:
        self.directory = owner.directory / "telemetry"
        self.writer = TelemetryWriter(
            self.directory,
            METERS,
            owner=owner,
            **options,  # type: ignore[arg-type]
        )
        self.reader = TelemetryReader(self.directory)
        self.sequence = 0

    def sweep(self, utc_ms: int, meters: range = range(3), *, short: bool = False) -> int:
        """Stage one reading of some meters."""
        self.sequence += 1
        return self.writer.stage_sweep(
            utc_ms,
            [
                MeterReading(
                    meter,
                    utc_ms + meter,
                    self.sequence,
                    (10**9 + self.sequence, meter),
                    () if short else values(meter, self.sequence),
                )
                for meter in meters
            ],
        ).result(5)

    def voltages(self, meter: int, begin: int = 0, end: int = FAR) -> list[ValuePoint]:
        """The stored voltages of a meter."""
        return self.reader.values(METERS[meter].meter_id, NAMES[0], begin, end)

    def close(self) -> None:
        """End the writer."""
        self.writer.close(5)


def values(meter: int, sequence: int) -> tuple[float, ...]:
    """A measurement that 32 bits hold, one that needs 64, and a bit field of all 32 bits."""
    return (230.0 + meter + sequence % 7 * 0.5, 1e9 + sequence, 4294967295.0)
