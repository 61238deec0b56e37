"""`account statement`, `explain`, `receipt`: what a person reads, and what a program gets."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.app.config import load_config
from gateway.app.north import north_settings
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.core.ledger import Entry, wallet
from gateway.north.context import Listen, NorthSettings
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction
from tests.app.test_cli_site import CONFIG, Desk
from tests.core.ledger_maker import adjustment
from tests.north.conftest import serving
from tests.north.small_site import Executor
from tests.north.test_http_bills import fill, two_months

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a site whose meters nobody asks."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(port=1), encoding="utf-8")
    make_runtime_dir(paths_of(load_config(path)).north_runtime_dir)
    return path


@pytest.fixture
def settings(config: Path) -> NorthSettings:
    """What north makes of it, on a free port."""
    return replace(north_settings(load_config(config)), listen=(Listen("127.0.0.1", 0),))


@pytest.fixture
def executor(settings: NorthSettings) -> Iterator[Executor]:
    """Who holds the ledger: two months of one account."""
    running = Executor(settings)
    running.ledger.write(fill)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def desk(
    config: Path,
    settings: NorthSettings,
    executor: Executor,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    """A terminal of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")
    async with serving(settings, executor) as site:
        yield Desk(site, config, capsys)


@pytest.mark.parametrize("columns", ["80", "120"])
async def test_a_statement_reads_from_opening_to_closing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Every line has its unit and amount, whole, also in a narrow terminal."""
    monkeypatch.setenv("COLUMNS", columns)
    ended = await desk.run("account", "statement", "flat-1", "--month", "2025-01")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "Statement 2025-01 of account flat-1, Asha (final)"
    assert all(len(line) <= int(columns) for line in lines)
    rows = [" ".join(line.split()) for line in lines]
    assert "grid, all, 0 to 100 kWh 100.000 kWh 3.333333/kWh -333.33" in rows
    assert "recharge 2, 2025-01-05, bank R-7, reversed by 3" in " ".join(rows).replace(" 77.77", "")
    assert "reversal 3, 2025-01-05, of 2 -77.77" in rows
    assert "closing balance 108.378 kWh 2.17" in rows
    assert "flat-1 T1 1.000 kWh 109.378 kWh 108.378 kWh" in rows
    assert "CREDIT 1440 1" in rows


async def test_an_explanation_shows_how_each_amount_was_made(desk: Desk) -> None:
    """Registers, price, tax on its cumulative basis, and the balance after."""
    ended = await desk.run("account", "explain", "flat-1", "--transaction", "5")
    assert (ended.status, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    assert text.startswith(
        "Account flat-1, amounts in INR, times in Asia/Kolkata "
        "5 settlement, 2025-01-07 00:00:00 wallet:flat-1 -15.741198426, "
    )
    assert "T1 5001 to 9003 Wh tariff case, version 1" in text
    assert "grid, all, 0 to 100 kWh 4.002 kWh x 3.333333/kWh 13.339998666" in text
    assert "18 % of energy + fixed in the period: 26.676663999 gives 4.801799519" in text
    assert "sum 15.741198426" in text
    receipt = await desk.run("account", "receipt", "flat-1", "2")
    rows = [" ".join(line.split()) for line in receipt.out.splitlines()]
    assert {"paid 77.77", "from cash:bank 77.77", "to wallet:flat-1 77.77"} <= set(rows)
    assert "REVERSED by transaction 3" in rows


async def test_a_month_is_explained_whole(desk: Desk) -> None:
    """All pages, as JSON; each item adds up."""
    ended = await desk.run("account", "explain", "flat-1", "--month", "2025-01", "--json")
    assert ended.status == 0
    items = json.loads(ended.out)
    assert len(items) == 30
    assert all(item["adds_up"] for item in items)
    bill = json.loads(
        (await desk.run("account", "statement", "flat-1", "--month", "2025-01", "--json")).out
    )
    assert items[-1]["balance_after"] == bill["closing"]
    empty = await desk.run("account", "explain", "flat-1", "--month", "2025-04")
    assert (empty.status, empty.out) == (0, "nothing was posted\n")


async def test_the_present_balance_is_traced_from_the_first_transaction(desk: Desk) -> None:
    """`--all` has every transaction of all months, and ends with the balance of the account."""
    ended = await desk.run("account", "explain", "flat-1", "--all", "--json")
    items = json.loads(ended.out)
    numbers = [item["transaction"] for item in items]
    assert numbers == sorted(set(numbers))
    months = {line["period"] for item in items for line in item["lines"]}
    assert {"2025-01", "2025-02"} <= months
    shown = json.loads((await desk.run("account", "show", "flat-1", "--json")).out)
    assert items[-1]["balance_after"] == shown["balance"]
    moved = sum(
        Decimal(entry["amount"])
        for item in items
        for entry in item["entries"]
        if entry["ledger_account"] == "wallet:flat-1"
    )
    assert moved == Decimal(shown["balance"])


async def test_what_does_not_add_up_is_named_and_fails(desk: Desk) -> None:
    """A settlement whose entries differ from its lines: exit 1, and the number of it."""

    def wrong(connection: Connection) -> None:
        settlement = next(t for t in two_months().transactions if t.settlements)
        entries = adjustment((Entry(wallet("flat-1"), -1), Entry("income:fixed", 1)), 0).entries
        append_transaction(connection, replace(settlement, entries=entries, utc_ms=2 * 10**12))

    desk.executor.ledger.write(wrong)
    whole = json.loads((await desk.run("account", "explain", "flat-1", "--transaction", "4",
                                       "--json")).out)  # fmt: skip
    assert whole[0]["adds_up"]
    ended = await desk.run("account", "explain", "flat-1", "--transaction", "44")
    assert ended.status == 1
    assert "DOES NOT ADD UP: entries sum to -1 nano" in ended.out
    assert ended.err == "these transactions do not add up: 44\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("statement", "nobody", "--month", "2025-01"), "ACCOUNT_UNKNOWN"),
        (("statement", "flat-1", "--month", "2999-01"), "PERIOD_FUTURE"),
        (("statement", "flat-1", "--month", "2025-1/x"), "NOT_FOUND"),
        (("statement", "flat-1", "--month", "2025-1"), "VALIDATION"),
        (("explain", "flat-1", "--transaction", "999"), "TRANSACTION_UNKNOWN"),
        (("explain", "flat-1", "--month", "2025-13"), "PERIOD_INVALID"),
        (("receipt", "flat-1", "4"), "NO_RECEIPT"),
    ],
)
async def test_wrong_questions_end_with_their_code(
    desk: Desk, words: tuple[str, ...], code: str
) -> None:
    """One line on standard error, exit 1."""
    ended = await desk.run("account", *words)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"{code}: ")


async def test_without_a_month_it_is_the_one_that_runs(desk: Desk) -> None:
    """By the site's clock and zone."""
    bill = json.loads((await desk.run("account", "statement", "flat-1", "--json")).out)
    assert bill["state"] == "open"
    both = await desk.run(
        "account", "explain", "flat-1", "--transaction", "5", "--month", "2025-01"
    )
    assert both.status == 2
    assert (
        await desk.run("account", "explain", "flat-1", "--transaction", "5", "--all")
    ).status == 2
