"""Statements, explanations and receipts over a real ledger and a real socket."""

from decimal import Decimal
from itertools import pairwise

import httpx
import pytest

from gateway.core.civil import DAY_MS
from gateway.core.ledger import TransactionKind, wallet
from gateway.core.money import Currency, parse_amount
from gateway.core.requests import Role
from gateway.core.tariff_writer import tariff_to_document
from gateway.store.commands import CommandState, SwitchAction, SwitchCommand, put_switch_command
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction
from gateway.store.registry import (
    Account,
    MeterAssignment,
    TariffVersion,
    assign_meter,
    open_account,
    publish_tariff,
)
from tests.core.ledger_maker import FLAT, LedgerMaker
from tests.core.test_prepaid_cases import instant, tariff
from tests.north.conftest import Served

API = "/api/v1"
INR = Currency("INR")
START = "2025-01-05T00:00:00+05:30"


def two_months() -> LedgerMaker:
    """January and February of an account with blocks, a fee, a tax, a debt and a slip."""
    version = tariff(
        {"blocks": [{"upto_kwh": "100", "price": "3.333333"}, {"price": "4.50"}]},
        fixed="50",
        tax_bp="1800",
        taxable=["energy", "fixed"],
        effective_from="2024-01-01",
    )
    made = LedgerMaker([version], instant(START))
    made.recharge(parse_amount("500", INR), repaid={f"debt:{FLAT}:meter": 10**9})
    slip = made.recharge(parse_amount("77.77", INR))
    made.reverse(slip)
    for day in range(40):
        made.use({"grid": 4_001 + day}, DAY_MS)
        made.settle(with_other=day % 2 == 0)
    return made


def fill(connection: Connection) -> LedgerMaker:
    """Put it into the ledger of a site, with a cut on the 10th that lasted a day."""
    made = two_months()
    version = made.versions[0]
    document = tariff_to_document(version, INR)
    publish_tariff(
        connection,
        TariffVersion(version.tariff_id, 1, version.effective_from_utc_ms, document, 0, "manager"),
    )
    connection.execute("UPDATE account SET opened_utc_ms = ?", (instant(START),))
    assign_meter(connection, MeterAssignment(FLAT, FLAT, instant(START), (0,)))
    for transaction in made.transactions:
        append_transaction(connection, transaction)
    for number, action in enumerate((SwitchAction.OPEN, SwitchAction.CLOSE)):
        at_ms = instant("2025-01-10T00:00:00+05:30") + number * DAY_MS
        command = SwitchCommand(
            command_id=f"c{number}",
            service_point_id=FLAT,
            meter_id=FLAT,
            action=action,
            reason="CREDIT",
            issued_utc_ms=at_ms,
            state=CommandState.VERIFIED,
            finished_utc_ms=at_ms,
        )
        put_switch_command(connection, command)
    return made


@pytest.fixture
async def client(site: Served) -> httpx.AsyncClient:
    """An auditor at a site with two months of ledger."""
    site.executor.ledger.write(fill)
    return await site.client(Role.AUDITOR)


def total(items: list[dict[str, str]], name: str = "amount") -> Decimal:
    """The sum of amounts."""
    return sum((Decimal(item[name]) for item in items), Decimal(0))


@pytest.mark.slow
async def test_a_bill_foots_exactly_and_as_shown(client: httpx.AsyncClient) -> None:
    """Opening and lines give the closing, exact and shown; the months join."""
    january = (await client.get(f"{API}/accounts/{FLAT}/bills/2025-01")).json()
    february = (await client.get(f"{API}/accounts/{FLAT}/bills/2025-02")).json()
    for bill in (january, february):
        movement = total(bill["money"]) - total(bill["energy"]) - total(bill["charges"])
        movement -= total(bill["moved"])
        assert Decimal(bill["opening"]) + movement == Decimal(bill["closing"])
        shown = sum(total(bill[k], "shown") for k in ("money", "energy", "charges", "moved"))
        shown += Decimal(bill["opening_shown"]) + Decimal(bill["rounding_shown"])
        assert shown == Decimal(bill["closing_shown"])
    assert january["closing"] == february["opening"]
    balance = (await client.get(f"{API}/accounts/{FLAT}")).json()["balance"]
    assert february["closing"] == balance
    assert (january["state"], february["state"]) == ("final", "settling")
    assert [(line["block"], line["energy_wh"]) for line in january["energy"]] == [
        (1, 100_000),
        (2, january["energy_wh"] - 100_000),
    ]
    assert [line["kind"] for line in january["money"]] == ["recharge", "recharge", "reversal"]
    assert january["money"][1]["reversed_by"] == january["money"][2]["transaction"]
    assert january["off_supply"] == [
        {"service_point_id": FLAT, "cause": "CREDIT", "minutes": 1_440, "times": 1}
    ]
    assert january["moved"][0]["closing"] == "1"
    assert february["moved"][0]["opening"] == "1"


async def test_the_explanation_of_a_month_adds_up_page_by_page(client: httpx.AsyncClient) -> None:
    """Pages join to the range, each amount adds up, and the balance goes on from line to line."""
    bill = (await client.get(f"{API}/accounts/{FLAT}/bills/2025-02")).json()
    found, cursor = [], ""
    while True:
        answer = await client.get(
            f"{API}/accounts/{FLAT}/explanation",
            params={"period": "2025-02", "limit": 4, "cursor": cursor},
        )
        page = answer.json()
        found += page["items"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert [item["problems"] for item in found] == [[]] * len(found)
    numbers = [item["transaction"] for item in found]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 10
    assert found[-1]["balance_after"] == bill["closing"]
    for earlier, later in pairwise(found):
        moved = total(later["entries"])
        assert Decimal(earlier["balance_after"]) + moved == Decimal(later["balance_after"])
    energy = sum(part["energy_wh"] for item in found for line in item["lines"]
                 for part in line["energy"] if line["period"] == "2025-02")  # fmt: skip
    assert energy == bill["energy_wh"]


async def test_what_a_month_explains_is_what_its_bill_holds(
    site: Served, client: httpx.AsyncClient
) -> None:
    """A fee posted after midnight stands in the bill of its month, and in its explanation."""
    made = two_months()
    made.transactions.clear()
    made.use({"grid": 500}, instant("2025-03-01T00:00:02+05:30") - made.now_ms)
    made.settle()

    def post(connection: Connection) -> None:
        for transaction in made.transactions:
            append_transaction(connection, transaction)

    site.executor.ledger.write(post)
    february = await client.get(f"{API}/accounts/{FLAT}/bills/2025-02")
    assert "fixed" in {line["name"] for line in february.json()["charges"]}
    page = await client.get(
        f"{API}/accounts/{FLAT}/explanation", params={"period": "2025-02", "limit": 100}
    )
    items = page.json()["items"]
    assert {line["name"] for line in items[-1]["lines"][0]["charges"]} >= {"fixed", "tax:VAT"}
    assert all(item["adds_up"] for item in items)
    lines = [line for item in items for line in item["lines"]]
    charged = total([line for line in lines if line["period"] == "2025-02"])
    assert charged == total(february.json()["energy"]) + total(february.json()["charges"])
    march = await client.get(f"{API}/accounts/{FLAT}/explanation", params={"period": "2025-03"})
    # The posting over midnight has a line of each month: it stands in both explanations.
    assert [line["period"] for line in lines[-2:]] == ["2025-02", "2025-03"]
    assert march.json()["items"] == items[-1:]
    by_time = await client.get(
        f"{API}/accounts/{FLAT}/explanation", params={"from": "2025-02-28T18:30:00Z"}
    )
    assert [item["transaction"] for item in by_time.json()["items"]] == [items[-1]["transaction"]]


async def test_one_transaction_is_explained_like_in_its_range(client: httpx.AsyncClient) -> None:
    """The period's earlier lines are remembered, wherever the explanation begins."""
    whole = (await client.get(f"{API}/accounts/{FLAT}/explanation", params={"limit": 100})).json()
    assert whole["next_cursor"] is None
    item = whole["items"][20]
    one = await client.get(
        f"{API}/accounts/{FLAT}/explanation", params={"transaction": item["transaction"]}
    )
    assert one.json()["items"] == [item]
    tax = item["lines"][0]["charges"][-1]
    assert tax["name"] == "tax:VAT"
    assert tax["basis"]["rate_percent"] == "18"
    assert Decimal(tax["after"]) - Decimal(tax["before"]) == Decimal(tax["amount"])


async def test_a_receipt_tells_where_the_money_went(client: httpx.AsyncClient) -> None:
    """Both sides sum to the amount; a reversed one says so."""
    receipt = (await client.get(f"{API}/accounts/{FLAT}/recharges/1/receipt")).json()
    assert (receipt["amount"], receipt["balance_before"]) == ("500", "0")
    assert receipt["balance_after"] == "499"
    assert total(receipt["went_to"]) == total(receipt["came_from"]) == Decimal(500)
    assert {entry["ledger_account"] for entry in receipt["went_to"]} == {
        wallet(FLAT),
        f"debt:{FLAT}:meter",
    }
    slip = (await client.get(f"{API}/accounts/{FLAT}/recharges/2/receipt")).json()
    assert (slip["balance_before"], slip["reversed_by"]) == ("499", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("nobody/bills/2025-01", 404, "ACCOUNT_UNKNOWN"),
        (f"{FLAT}/bills/2999-01", 422, "PERIOD_FUTURE"),
        (f"{FLAT}/bills/2024-12", 404, "PERIOD_UNKNOWN"),
        (f"{FLAT}/bills/2025-13", 400, "PERIOD_INVALID"),
        (f"{FLAT}/bills/2025-02-29", 400, "PERIOD_INVALID"),
        (f"{FLAT}/bills/9999-12", 400, "PERIOD_INVALID"),
        (f"{FLAT}/bills/january", 400, "VALIDATION"),
        ("nobody/explanation", 404, "ACCOUNT_UNKNOWN"),
        (f"{FLAT}/explanation?transaction=999", 404, "TRANSACTION_UNKNOWN"),
        (f"{FLAT}/explanation?transaction=1&cursor=x", 400, "CURSOR_INVALID"),
        (f"{FLAT}/explanation?transaction=1&from=2025-01-01T00:00:00Z", 400, "VALIDATION"),
        (f"{FLAT}/explanation?from=2025-01-01", 400, "VALIDATION"),
        (f"{FLAT}/explanation?period=2025-13", 400, "PERIOD_INVALID"),
        (f"{FLAT}/explanation?period=2025-1", 400, "VALIDATION"),
        (f"{FLAT}/explanation?period=2025-01&to=2025-01-01T00:00:00Z", 400, "VALIDATION"),
        (f"{FLAT}/explanation?since=2025-01-01T00:00:00Z", 400, "VALIDATION"),
        (f"{FLAT}/recharges/4/receipt", 404, "NO_RECEIPT"),
        (f"{FLAT}/recharges/999/receipt", 404, "TRANSACTION_UNKNOWN"),
        ("nobody/recharges/1/receipt", 404, "ACCOUNT_UNKNOWN"),
    ],
)
async def test_wrong_questions_are_refused(
    client: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    """Each by its own code, as a problem document."""
    answer = await client.get(f"{API}/accounts/{path}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.slow
async def test_another_accounts_transaction_is_unknown(
    site: Served, client: httpx.AsyncClient
) -> None:
    """Neither a receipt nor an explanation shows what belongs to somebody else."""

    def other(connection: Connection) -> None:
        open_account(connection, Account("flat-2", "B", "flat-2", "home", instant(START)))

    site.executor.ledger.write(other)
    number = site.executor.post("flat-2", 10**9, TransactionKind.RECHARGE)
    for path in (f"recharges/{number}/receipt", f"explanation?transaction={number}"):
        answer = await client.get(f"{API}/accounts/{FLAT}/{path}")
        assert answer.json()["code"] == "TRANSACTION_UNKNOWN"
    assert (
        await client.get(f"{API}/accounts/flat-2/recharges/{number}/receipt")
    ).status_code == 200


async def test_a_later_posting_makes_a_month_final(site: Served, client: httpx.AsyncClient) -> None:
    """Once the ledger itself has gone past the settling time nothing can be added."""
    path = f"{API}/accounts/{FLAT}/bills/2025-02"
    before = (await client.get(path)).json()
    site.executor.post(FLAT, 10**9, TransactionKind.ADJUSTMENT)
    after = (await client.get(path)).json()
    assert after == {**before, "state": "final"}


async def test_a_tariff_that_cannot_be_read_is_said_and_still_foots(site: Served) -> None:
    """Without a price the explanation says so; the statement keeps the charge in a line."""

    def unreadable(connection: Connection) -> None:
        made = two_months()
        publish_tariff(connection, TariffVersion("case", 1, 0, {"id": "case"}, 0, "manager"))
        connection.execute("UPDATE account SET opened_utc_ms = ?", (instant(START),))
        for transaction in made.transactions[:5]:
            append_transaction(connection, transaction)

    site.executor.ledger.write(unreadable)
    client = await site.client(Role.MANAGER)
    bill = (await client.get(f"{API}/accounts/{FLAT}/bills/2025-01")).json()
    assert bill["energy"] == []
    assert [line["name"] for line in bill["charges"]] == ["energy:grid", "tax:VAT"]
    page = (await client.get(f"{API}/accounts/{FLAT}/explanation?transaction=4")).json()
    assert not page["items"][0]["adds_up"]
    assert "no price is known" in page["items"][0]["problems"][0]
