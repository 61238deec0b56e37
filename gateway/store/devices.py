"""`device` in `ledger.db`: ESP32 nodes, what was decided about them, how far they were read."""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.store.rows import as_int, as_text, document, mapping

_READ = (
    "SELECT device_id, status, meter_id, generation, firmware, first_utc_ms, seen_utc_ms, boot_id, "
    "seq, note, state FROM device ORDER BY device_id"
)


class DeviceStatus(StrEnum):
    """What was decided about a device."""

    PENDING = "pending"
    APPROVED = "approved"
    REFUSED = "refused"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """One device. `boot_id` and `seq` are of telemetry that counted; -1: none yet.

    `state` is what it told last, for people.
    """

    device_id: str
    status: DeviceStatus
    meter_id: str | None
    generation: int
    firmware: str
    first_utc_ms: int
    seen_utc_ms: int
    boot_id: int = -1
    seq: int = -1
    note: str = ""
    state: Mapping[str, object] = field(default_factory=dict)


def put_devices(connection: sqlite3.Connection, records: Iterable[DeviceRecord]) -> None:
    """Keep these records in place of those before."""
    connection.executemany(
        "INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.device_id,
                one.status.value,
                one.meter_id,
                one.generation,
                one.firmware,
                one.first_utc_ms,
                one.seen_utc_ms,
                one.boot_id,
                one.seq,
                one.note,
                document(one.state),
            )
            for one in records
        ],
    )


def read_devices(connection: sqlite3.Connection) -> dict[str, DeviceRecord]:
    """All devices by id."""
    return {
        as_text(row[0]): DeviceRecord(
            device_id=as_text(row[0]),
            status=DeviceStatus(as_text(row[1])),
            meter_id=None if row[2] is None else as_text(row[2]),
            generation=as_int(row[3]),
            firmware=as_text(row[4]),
            first_utc_ms=as_int(row[5]),
            seen_utc_ms=as_int(row[6]),
            boot_id=as_int(row[7]),
            seq=as_int(row[8]),
            note=as_text(row[9]),
            state=mapping(row[10]),
        )
        for row in connection.execute(_READ)
    }
