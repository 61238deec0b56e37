"""Bad input, one by one: refused with place and reason, nothing changed, the refusal on record."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.requests import (
    Body,
    ConfigureAccount,
    IssueVoucher,
    OpenAccount,
    OutcomeStatus,
    PublishTariff,
    Recharge,
    RedeemVoucher,
    ReverseTransaction,
)
from gateway.store.commands import find_outcome
from tests.app.control_site import TARIFF, ControlSite

RUPEE = 10**9
# What no request of these tests may change, and the audit record, which has to grow by one.
KEPT = (
    "ledger_transaction", "entry", "balance", "tariff", "tariff_draft", "account", "account_terms",
    "account_point", "debt", "voucher", "voucher_redemption",
)  # fmt: skip


def tariff(**changed: object) -> PublishTariff:
    """The site's tariff as its next version, with something wrong in it."""
    document = {**json.loads(TARIFF), "effective_from": "2027-02-01", **changed}
    return PublishTariff(json.dumps(document))


def window(start: str, end: str) -> list[dict[str, str]]:
    """The windows of a band, on every day."""
    return [{"from": start, "to": end}]


def hours(*windows: dict[str, object]) -> ConfigureAccount:
    """Terms with friendly hours."""
    return ConfigureAccount("flat-1", json.dumps({"friendly_hours": {"windows": windows}}))


# Where a refusal of a code points: the field of the body, or the key of the document in it.
PLACES = {
    "TARIFF_INVALID": ("grid.bands", "grid.blocks[1].upto_kwh", "fixed.amount", "minimum.amount"),
    "PRICE_PRECISION": ("grid.price",),
    "ZONE_UNKNOWN": ("timezone", "friendly_hours.timezone"),
    "MONEY_RANGE": ("fixed.amount",),
    "CALENDAR_NEVER_CUTS": ("friendly_hours.windows",),
    "AMOUNT_RANGE": ("amount",),
    "ACCOUNT_UNKNOWN": ("account_id",),
    "VOUCHER_WRONG": ("token",),
    "NOT_REVERSIBLE": ("transaction_seq",),
}
BANDS = {
    "gap": {
        "day": {"price": "9", "when": window("06:00", "22:00")},
        "night": {"price": "5", "when": window("22:00", "05:00")},
    },
    "overlap": {
        "day": {"price": "9", "when": window("06:00", "22:00")},
        "night": {"price": "5", "when": window("21:00", "06:00")},
    },
}
BLOCKS = [
    {"upto_kwh": 300, "price": "3.50"},
    {"upto_kwh": 100, "price": "4.50"},
    {"price": "6.00"},
]
CASES: list[tuple[str, Body, str, tuple[str, ...]]] = [
    (
        "a tariff with a gap", tariff(grid={"bands": BANDS["gap"]}),
        "TARIFF_INVALID", ("grid.bands", "05:00"),
    ),
    (
        "a tariff with an overlap", tariff(grid={"bands": BANDS["overlap"]}),
        "TARIFF_INVALID", ("grid.bands", "21:00", "overlap"),
    ),
    (
        "more than six decimals", tariff(grid={"price": "8.1234567"}),
        "PRICE_PRECISION", ("grid.price", "8.1234567", "6 decimals"),
    ),
    (
        "a price that is a binary fraction", tariff(grid={"price": 8.1}),
        "PRICE_PRECISION", ("grid.price", "text in quotes"),
    ),
    (
        "an unknown zone", tariff(timezone="Asia/Calcuta"),
        "ZONE_UNKNOWN", ("timezone", "Asia/Calcuta"),
    ),
    (
        "blocks out of order", tariff(grid={"blocks": BLOCKS}),
        "TARIFF_INVALID", ("grid.blocks[1].upto_kwh",),
    ),
    (
        "a negative fee", tariff(fixed={"amount": "-50.00"}),
        "TARIFF_INVALID", ("fixed.amount", "negative"),
    ),
    (
        "a negative minimum", tariff(minimum={"amount": "-0.01"}),
        "TARIFF_INVALID", ("minimum.amount", "negative"),
    ),
    (
        "a fee beyond the maximum", tariff(fixed={"amount": "10000000.01"}),
        "MONEY_RANGE", ("fixed.amount", "10000000"),
    ),
    (
        "a calendar that never allows a cut", hours({"from": "00:00", "to": "24:00"}),
        "CALENDAR_NEVER_CUTS", ("friendly_hours.windows",),
    ),
    (
        "a calendar of an unknown zone",
        ConfigureAccount("flat-1", '{"friendly_hours": {"preset": "uk_edf", "timezone": "Moon"}}'),
        "ZONE_UNKNOWN", ("friendly_hours.timezone", "Moon"),
    ),
    (
        "such a calendar with a new account",
        OpenAccount(
            "flat-2", "flat-2", "home",
            terms='{"friendly_hours": {"windows": [{"from": "00:00", "to": "24:00"}]}}',
        ),
        "CALENDAR_NEVER_CUTS", ("friendly_hours.windows",),
    ),
    (
        "a recharge above the maximum", Recharge("flat-1", 10_000_000 * RUPEE + 1),
        "AMOUNT_RANGE", ("amount", "10000000 INR"),
    ),
    (
        "a voucher above the maximum", IssueVoucher("flat-1", 10_000_000 * RUPEE + 1),
        "AMOUNT_RANGE", ("amount", "10000000 INR"),
    ),
    ("a negative recharge", Recharge("flat-1", -RUPEE), "AMOUNT_RANGE", ("amount", "above zero")),
    (
        "a recharge of nobody", Recharge("flat-9", RUPEE),
        "ACCOUNT_UNKNOWN", ("account", "flat-9"),
    ),
]  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two meters, read once, clock trusted."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    made.read(5_000, index=1)
    yield made
    made.crash()


async def refused(
    site: ControlSite, body: Body, code: str, said: tuple[str, ...], key: str = "bad"
) -> None:
    """Ask, and see the refusal: its code and place, on record, with nothing changed."""
    connection = site.file.connection

    def count(table: str) -> list[object]:
        return list(connection.execute(f"SELECT * FROM {table} ORDER BY 1"))  # noqa: S608

    before = {table: count(table) for table in KEPT}
    terms = {name: account.credit.terms for name, account in site.desk.accounts.items()}
    audited = len(count("audit"))
    await site.do(body, key=key)
    outcome = find_outcome(connection, key)
    assert outcome is not None
    assert (outcome.status, outcome.code) == (OutcomeStatus.REFUSED, code), outcome.message
    assert [part for part in said if part not in outcome.message] == [], outcome.message
    assert {table: count(table) for table in KEPT} == before
    assert {name: account.credit.terms for name, account in site.desk.accounts.items()} == terms
    records = connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    assert len(records) == audited + 1
    record = json.loads(records[-1][0])
    assert (record["action"], record["result"], record["request"]) == (body.TYPE, code, key)
    assert (record["actor"], record["role"]) == ("anna", "manager")
    assert record["place"] == outcome.place
    assert outcome.place.startswith(PLACES[code]), outcome.place
    assert site.proof().problems == ()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [pytest.param(body, code, said, id=name) for name, body, code, said in CASES],
)
async def test_bad_input_changes_nothing_and_is_on_record(
    site: ControlSite, body: Body, code: str, said: tuple[str, ...]
) -> None:
    """As the person hears it: where it is wrong, and why."""
    await site.sweeper.sweep()
    await site.open_flat(1_000 * RUPEE)
    await refused(site, body, code, said)


async def test_a_voucher_for_another_point_changes_nothing(site: ControlSite) -> None:
    """Its digits are not in the record of the try: they are still worth their money elsewhere."""
    await site.sweeper.sweep()
    await site.open_flat(1_000 * RUPEE)
    await site.open_flat(1_000 * RUPEE, index=1)
    await site.do(IssueVoucher("flat-1", 500 * RUPEE), key="sale")
    sale = find_outcome(site.file.connection, "sale")
    assert sale is not None
    token = str(sale.result["token"])
    said = ("no voucher of this service point", "compare the digits", "4 more wrong tries")
    await refused(site, RedeemVoucher("flat-2", token), "VOUCHER_WRONG", said)
    records = site.file.connection.execute("SELECT body FROM audit").fetchall()
    assert not any(token in body for (body,) in records)


async def test_a_reversal_of_a_reversal_changes_nothing(site: ControlSite) -> None:
    """What was undone is done again by a new recharge, never by undoing the undoing."""
    await site.sweeper.sweep()
    await site.open_flat(1_000 * RUPEE)
    await site.do(Recharge("flat-1", 50 * RUPEE), key="paid")
    paid = find_outcome(site.file.connection, "paid")
    assert paid is not None
    seq = paid.result["transaction_seq"]
    assert isinstance(seq, int)
    await site.do(ReverseTransaction(seq, "wrong flat"), key="undone")
    undone = find_outcome(site.file.connection, "undone")
    assert undone is not None
    reversal = undone.result["transaction_seq"]
    assert isinstance(reversal, int)
    said = (f"transaction {reversal} is a reversal", "only a recharge")
    await refused(site, ReverseTransaction(reversal, "no, right"), "NOT_REVERSIBLE", said)


async def test_a_site_sets_its_largest_amount_and_what_was_accepted_before_stays(
    tmp_path: Path,
) -> None:
    """A lower maximum refuses what comes; tariffs and terms above it are read as they were."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    await made.sweeper.sweep()
    dear = {**json.loads(TARIFF), "fixed": {"amount": "600.00", "collect": "period_close"}}
    await made.do(PublishTariff(json.dumps(dear)))
    terms = json.dumps({"emergency": {"limit": "700.00"}})
    await made.do(OpenAccount("flat-1", "flat-1", "home", terms=terms))
    made.crash()
    path = tmp_path / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("currency: INR", "currency: INR, amount_max: 500"), "utf-8")
    lower = ControlSite(tmp_path, boot="boot-2")
    assert lower.desk.accounts["flat-1"].credit.terms.emergency_limit_nano == 700 * RUPEE
    await lower.do(Recharge("flat-1", 500 * RUPEE), key="most")
    await refused(lower, Recharge("flat-1", 500 * RUPEE + 1), "AMOUNT_RANGE", ("500 INR",))
    await refused(lower, tariff(fixed={"amount": "600.00"}), "MONEY_RANGE", ("of 500",), "again")
    most = find_outcome(lower.file.connection, "most")
    assert most is not None
    assert most.status is OutcomeStatus.EXECUTED
    lower.crash()
