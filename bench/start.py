"""How long the stores hold up a start with years of ledger: opening, state, proof.

    python -m bench.start --years 5 --meters 10

A made ledger: every half hour a posting of all meters with its place in the chain, every day a
signed checkpoint; then one day of 800 meters that no checkpoint covers yet, as at the worst moment
before midnight. What a start does is timed on the files as they are, read from the disk anew.
"""

import argparse
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.app.site_key import load_site_key, signature_fits
from gateway.core.ledger import SettlementLine, settlement_of, wallet
from gateway.core.signing import Signer
from gateway.store.audit import audit_head
from gateway.store.checkpoints import (
    KeyTrust,
    RegisterKey,
    Sums,
    append_checkpoint,
    signed_checkpoint,
    trusted_checkpoint,
)
from gateway.store.db import Connection, open_reader, open_writer, own_directory
from gateway.store.ledger import (
    LEDGER,
    Site,
    append_transaction,
    create_site,
    ledger_head,
    read_balances,
)
from gateway.store.verify import verify_ledger

ROUNDS_A_DAY: Final = 48
ROUND_MS: Final = 1_800_000
BEGIN_MS: Final = 1_577_836_800_000
WH_A_ROUND: Final = 250
LAST_DAY_METERS: Final = 800


def settled(meter: str, number: int) -> SettlementLine:
    """The half hour `number` of a meter."""
    start_ms = BEGIN_MS + number * ROUND_MS
    from_wh, to_wh = number * WH_A_ROUND, (number + 1) * WH_A_ROUND
    charge = WH_A_ROUND * 8_000_000
    return SettlementLine(
        account_id=meter,
        service_point_id=meter,
        meter_id=meter,
        tariff_id="home",
        period=f"{datetime.fromtimestamp(start_ms / 1000, UTC):%Y-%m}",
        from_utc_ms=start_ms,
        to_utc_ms=start_ms + ROUND_MS,
        from_wh=(from_wh, 0),
        to_wh=(to_wh, 0),
        advance_wh=(WH_A_ROUND, 0),
        cells=(("1/grid/all/1", WH_A_ROUND),),
        charges=(("energy:grid", charge), ("tax:VAT", charge // 20)),
    )


def post(connection: Connection, meters: int, number: int) -> None:
    """One posting round."""
    lines = [settled(f"flat-{meter:03}", number) for meter in range(meters)]
    transaction = settlement_of(lines, utc_ms=BEGIN_MS + (number + 1) * ROUND_MS)
    if transaction is not None:
        append_transaction(connection, transaction)


def write_years(connection: Connection, signer: Signer, meters: int, days: int) -> None:
    """Days of postings with their checkpoints, then the last day without one."""
    for day in range(days):
        connection.execute("BEGIN")
        for number in range(day * ROUNDS_A_DAY, (day + 1) * ROUNDS_A_DAY):
            post(connection, meters, number)
        ended_ms = BEGIN_MS + (day + 1) * ROUNDS_A_DAY * ROUND_MS
        last_wh = ((day + 1) * ROUNDS_A_DAY * WH_A_ROUND, 0)
        names = [f"flat-{meter:03}" for meter in range(meters)]
        registers: dict[RegisterKey, tuple[int, ...]] = {
            (name, name, name): last_wh for name in names
        }
        append_checkpoint(
            connection,
            signed_checkpoint(
                connection,
                signer,
                day=f"{datetime.fromtimestamp((ended_ms - 1) / 1000, UTC):%Y-%m-%d}",
                utc_ms=ended_ms,
                head=ledger_head(connection),
                audit_head=audit_head(connection),
                sums=Sums(read_balances(connection), registers),
            ),
        )
        connection.execute("COMMIT")
    for number in range(days * ROUNDS_A_DAY, (days + 1) * ROUNDS_A_DAY):
        connection.execute("BEGIN")
        lines = [settled(f"tower-{meter:03}", number) for meter in range(LAST_DAY_METERS)]
        transaction = settlement_of(lines, utc_ms=BEGIN_MS + (number + 1) * ROUND_MS)
        if transaction is not None:
            append_transaction(connection, transaction)
        connection.execute("COMMIT")


def forget_cache(directory: Path) -> None:
    """Write everything and drop it from memory, as after a power cut."""
    os.sync()
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def time_start(directory: Path, trust: KeyTrust) -> None:
    """Open, read state, prove since the checkpoint; print each."""
    forget_cache(directory)
    owner = own_directory(directory, create=False)
    begun_s = time.perf_counter()
    file = open_writer(directory / "ledger.db", LEDGER, owner=owner, create=False)
    opened_s = time.perf_counter()
    balances = read_balances(file.connection)
    read_s = time.perf_counter()
    connection = open_reader(directory / "ledger.db", LEDGER)
    base, problems = trusted_checkpoint(connection, trust)
    report = verify_ledger(connection, since=base, trust=trust)
    proved_s = time.perf_counter()
    connection.close()
    file.connection.close()
    owner.release()
    if problems or not report.proved or base is None or wallet("tower-000") not in balances:
        raise SystemExit(f"the made ledger is wrong: {[*problems, *report.problems]}")
    print(
        f"  opened and checked {opened_s - begun_s:.2f} s, balances {read_s - opened_s:.2f} s, "
        f"proved {report.transactions} transactions since {base.day} {proved_s - read_s:.2f} s: "
        f"{proved_s - begun_s:.2f} s in all"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--years", type=int, default=5)
    parser.add_argument("--meters", type=int, default=10)
    parser.add_argument("--whole", action="store_true", help="prove the whole chain too")
    parser.add_argument("--quick", action="store_true", help="one year")
    arguments = parser.parse_args()
    years = 1 if arguments.quick else arguments.years
    base = Path(tempfile.mkdtemp(prefix="bench-start-", dir="/var/tmp"))
    try:
        directory = base / "control"
        owner = own_directory(directory, create=True)
        file = open_writer(directory / "ledger.db", LEDGER, owner=owner, create=True)
        site = Site("bench", "INR", 9, 2, "UTC", BEGIN_MS)
        file.connection.execute("BEGIN")
        create_site(file.connection, site, "01JD0000000000000000000000")
        file.connection.execute("COMMIT")
        key = load_site_key(directory)
        # Making the file is not what is timed.
        file.connection.execute("PRAGMA synchronous=OFF")
        write_years(file.connection, key, arguments.meters, years * 365)
        file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.connection.close()
        owner.release()
        size = (directory / "ledger.db").stat().st_size
        print(
            f"start with {years} years of {arguments.meters} meters ({size / 1e6:.0f} MB)"
            f" and a last day of {LAST_DAY_METERS}, Python {platform.python_version()}, "
            f"SQLite {sqlite3.sqlite_version}, {platform.machine()}"
        )
        trust = KeyTrust(key.public_key(), signature_fits)
        time_start(directory, trust)
        if arguments.whole:
            connection = open_reader(directory / "ledger.db", LEDGER)
            begun_s = time.perf_counter()
            report = verify_ledger(connection, trust=trust)
            print(f"  whole chain {time.perf_counter() - begun_s:.0f} s, {report.problem_count=}")
            connection.close()
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
