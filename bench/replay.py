"""How long a draft takes to be replayed on 800 accounts and 7 days, on a made ledger.

    python -m bench.replay [--quick] [--accounts 800] [--days 7]

The window ends 25 days into a month, so that the periods are read from far before it. What is timed
is the process that north starts for a replay, with everything it takes to start one.
"""

import argparse
import asyncio
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench._machine import machine
from gateway.app.config import Config, load_config
from gateway.app.north import north_settings
from gateway.app.paths import paths_of
from gateway.app.stores import create_stores
from gateway.core.ledger import SettlementLine, settlement_of
from gateway.core.money import Currency
from gateway.core.pricing import Pricer
from gateway.core.tariff_document import tariff_from_document
from gateway.north.replays import DEADLINE_S, ReplayRunner, ReplayWish
from gateway.store.accounts import AccountPoint, add_point
from gateway.store.db import Connection, open_writer, own_directory
from gateway.store.ledger import LEDGER, append_transaction
from gateway.store.registry import (
    Account,
    ServicePoint,
    TariffVersion,
    open_account,
    publish_tariff,
    put_service_point,
)

BEGIN_MS: Final = 1_798_741_800_000  # 2027-01-01T00:00 in Kolkata
HALF_HOUR_MS: Final = 1_800_000
DAYS: Final = 25
INR: Final = Currency("INR")
HOME: Final[Mapping[str, object]] = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01",
    "grid": {
        "bands": {
            "peak": {"price": "9.00", "when": [{"from": "18:00", "to": "22:00"}]},
            "rest": {"blocks": [{"upto_kwh": 100, "price": "3.50"}, {"price": "6.25"}]},
        }
    },
    "generator": {"price": "25.00"},
    "fixed": {"amount": "50.00", "collect": "daily"},
    "taxes": [{"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed"]}],
}
DRAFT: Final[Mapping[str, object]] = {
    **HOME,
    "effective_from": "2027-03-01",
    "grid": {
        "bands": {
            "sun": {"price": "2.50", "when": [{"from": "09:30", "to": "16:45"}]},
            "rest": {"price": "7.00"},
        }
    },
}
CONFIG: Final = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
meters_file: meters.csv
"""


class _Clock:
    """The moment at which the made site was created."""

    def mono_ns(self) -> int:
        return 0

    def utc_ms(self) -> int:
        return BEGIN_MS

    def loop_delay_s(self, seconds: float) -> float:
        return seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def made_site(directory: Path, accounts: int, days: int = DAYS) -> Config:
    """A site whose accounts were posted every half hour for so many days; nothing runs there."""
    names = [f"flat-{number:03}" for number in range(accounts)]
    rows = "".join(
        f"{name},pac3220,10.9.{at // 250}.{1 + at % 250},502,7360\n"
        for at, name in enumerate(names)
    )
    (directory / "meters.csv").write_text("id,model,host,port,p_max_w\n" + rows, encoding="utf-8")
    (directory / "config.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(directory / "config.yaml")
    create_stores(config, _Clock())
    owner = own_directory(paths_of(config).control_dir, create=False)
    file = open_writer(paths_of(config).ledger, LEDGER, owner=owner, create=False)
    connection = file.connection
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN")
    publish_tariff(connection, TariffVersion("home", 1, BEGIN_MS, dict(HOME), BEGIN_MS, "bench"))
    for name in names:
        put_service_point(connection, ServicePoint(name, name))
        open_account(connection, Account(name, name, name, "home", BEGIN_MS))
        add_point(connection, AccountPoint(name, name, "home", BEGIN_MS))
    connection.execute("COMMIT")
    _write_postings(connection, names, days)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.stop()
    owner.release()
    return config


def _write_postings(connection: Connection, names: list[str], days: int) -> None:
    """All accounts use the same, so that one pricer charges them all."""
    tariff = tariff_from_document(HOME, INR)
    pricer = Pricer([tariff], start_utc_ms=BEGIN_MS, sources=("grid", "generator"))
    used_wh = 0
    for number in range(days * 48):
        if number % 48 == 0:
            connection.execute("BEGIN")
        start_ms, wh = BEGIN_MS + number * HALF_HOUR_MS, 120 + number % 7 * 40
        end_ms = start_ms + HALF_HOUR_MS
        pricer.advance({"grid": wh}, start_ms, end_ms)
        pricer.close_periods(end_ms)
        postings = pricer.settle()
        lines = [
            SettlementLine(
                account_id=name,
                service_point_id=name,
                meter_id=name,
                tariff_id="home",
                period=posting.period,
                from_utc_ms=start_ms,
                to_utc_ms=end_ms,
                from_wh=(used_wh, 0),
                to_wh=(used_wh + wh, 0),
                advance_wh=(wh, 0),
                cells=tuple((cell.key, wh) for cell, wh in posting.cells),
                charges=posting.charges,
                facts=(posting.tariff_version, *(int(fact) for fact in posting.facts)),
            )
            for name in names
            for posting in postings
        ]
        used_wh += wh
        transaction = settlement_of(lines, utc_ms=end_ms)
        if transaction is not None:
            append_transaction(connection, transaction)
        if number % 48 == 47:
            connection.execute("COMMIT")


async def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=800)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="80 accounts")
    given = parser.parse_args()
    accounts = 80 if given.quick else given.accounts
    base = Path(tempfile.mkdtemp(prefix="bench-replay-", dir="/var/tmp"))
    try:
        config = made_site(base, accounts)
        print(f"{accounts} accounts, posted for {DAYS} days; {machine()}")
        runner = ReplayRunner(north_settings(config).replay_command, _Clock(), deadline_s=900)
        begun_s = time.perf_counter()
        report = await runner.ask(ReplayWish(DRAFT, given.days))
        took_s = time.perf_counter() - begun_s
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = len(json.dumps(report))
        print(
            f"  replay of {given.days} days: {took_s:.1f} s ({took_s / DEADLINE_S:.0%} of what "
            f"north waits), {used.ru_utime + used.ru_stime:.1f} s of a core, "
            f"{used.ru_maxrss / 1000:.0f} MB, an answer of {size / 1000:.0f} kB"
        )
        print(f"  {report['summary']}")
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    asyncio.run(main())
