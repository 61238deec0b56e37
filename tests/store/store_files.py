"""What tests of the store share: real files in a temporary directory, and children that write."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.core.ledger import (
    Entry,
    SettlementLine,
    Transaction,
    TransactionKind,
    cash,
    charge_entries,
    wallet,
)
from gateway.store.db import DirectoryOwner, StoreFile, open_writer, own_directory
from gateway.store.ledger import LEDGER, Site, create_site

EPOCH = "01JD0000000000000000000000"
SITE = Site("palm-court", "INR", 9, 2, "Asia/Kolkata", 1_700_000_000_000)
ROOT = Path(__file__).parents[2]


@contextmanager
def owned(directory: Path) -> Iterator[DirectoryOwner]:
    """The lock of a directory for the time of a test."""
    owner = own_directory(directory, create=True)
    try:
        yield owner
    finally:
        owner.release()


@contextmanager
def ledger_file(directory: Path) -> Iterator[StoreFile]:
    """A new ledger.db with its site."""
    with owned(directory) as owner:
        file = open_writer(directory / "ledger.db", LEDGER, owner=owner, create=True)
        file.connection.execute("BEGIN")
        create_site(file.connection, SITE, EPOCH)
        file.connection.execute("COMMIT")
        try:
            yield file
        finally:
            file.connection.close()


def recharge(
    account_id: str, amount_nano: int, *, key: str | None = None, utc_ms: int = 1
) -> Transaction:
    """Money that a customer paid at the counter."""
    return Transaction(
        kind=TransactionKind.RECHARGE,
        utc_ms=utc_ms,
        entries=(
            Entry(wallet(account_id), amount_nano),
            Entry(cash("counter"), -amount_nano),
        ),
        account_id=account_id,
        request_key=key,
        memo=(("provider", "counter"),),
    )


def line(
    account_id: str,
    from_wh: int,
    to_wh: int,
    *,
    advance_wh: int | None = None,
    flags: tuple[str, ...] = (),
    nano_per_wh: int = 8_000_000,
) -> SettlementLine:
    """A settlement of one meter with one register, named like its account."""
    settled_wh = to_wh - from_wh if advance_wh is None else advance_wh
    return SettlementLine(
        account_id=account_id,
        service_point_id=account_id,
        meter_id=f"meter-{account_id}",
        tariff_id="home",
        period="2026-11",
        from_utc_ms=1,
        to_utc_ms=2,
        from_wh=(from_wh,),
        to_wh=(to_wh,),
        advance_wh=(settled_wh,),
        cells=(("1/grid/all/1", settled_wh),),
        charges=(("energy:grid", settled_wh * nano_per_wh),),
        flags=flags,
    )


def settlement(*lines: SettlementLine, utc_ms: int = 2) -> Transaction:
    """A posting round of some lines."""
    return Transaction(
        kind=TransactionKind.SETTLEMENT,
        utc_ms=utc_ms,
        entries=tuple(
            entry for item in lines for entry in charge_entries(item.account_id, dict(item.charges))
        ),
        settlements=lines,
    )


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A child process that runs `code` with the gateway on its path."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(child: subprocess.Popen[str], timeout_s: float = 30.0) -> str:
    """What a child wrote, once it ended without an error."""
    out, err = child.communicate(timeout=timeout_s)
    assert child.returncode == 0, err
    return out


def killed(child: subprocess.Popen[str]) -> list[str]:
    """Kill -9; the whole lines that a child had still written."""
    child.kill()
    assert child.stdout is not None
    # Through the same buffer as the lines before: `communicate` would pass it by.
    rest = child.stdout.read()
    child.communicate(timeout=10)
    return rest.split("\n")[:-1]
