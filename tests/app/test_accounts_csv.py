"""The tenants' CSV: every problem at once and at its place, keys that follow the content."""

import time
from pathlib import Path

import pytest

from gateway.app.accounts_csv import Known, Present, Tenant, compare, read_tenants
from gateway.app.config_place import FileRefusedError, refuse
from gateway.core.money import Currency

INR = Currency("INR")
ID_WORDS = "1 to 63 small letters, digits and hyphens, no hyphen first"
TOO_FINE = "is finer than 9 decimals and cannot be kept exactly"
HEADER = "account,service_point,tariff,name,opening_balance,disablement_threshold"
SITE = Present(
    frozenset({"flat-1", "flat-2", "flat-3"}),
    frozenset({"home", "shop"}),
    {
        "flat-1": Known("flat-1", "home", 0, is_closed=False),
        "gone": Known("flat-3", "home", 0, is_closed=True),
    },
)


def read(
    tmp_path: Path,
    text: str,
    *,
    tariff: str | None = None,
    currency: Currency = INR,
    max_nano: int = 10**16,
) -> tuple[list[Tenant], list[str]]:
    """The tenants and problems of a file, by its own name."""
    path = tmp_path / "tenants.csv"
    path.write_text(text, encoding="utf-8")
    tenants, problems = read_tenants(path, currency, tariff=tariff, max_nano=max_nano)
    told = refuse(problems).problems
    return tenants, [problem.removeprefix(f"{tmp_path}/") for problem in told]


def test_rows_become_tenants(tmp_path: Path) -> None:
    """Empty cells have their meaning: the point of the same id, the given tariff, zero."""
    text = f"{HEADER}\nanna,flat-2,shop,Anna A.,-12.50,-5\n# a remark\nflat-3,,,,,\n"
    tenants, problems = read(tmp_path, text, tariff="home")
    assert problems == []
    anna, flat = tenants
    assert (anna.account_id, anna.service_point_id, anna.tariff_id) == ("anna", "flat-2", "shop")
    assert (anna.name, anna.opening_balance_nano) == ("Anna A.", -12_500_000_000)
    assert anna.disablement_threshold_nano == -5_000_000_000
    assert (flat.service_point_id, flat.tariff_id, flat.opening_balance_nano) == (
        "flat-3",
        "home",
        0,
    )
    assert compare(tenants, SITE) == []


def test_a_name_that_would_move_a_terminal_is_refused(tmp_path: Path) -> None:
    """Before anything is opened, with its place; control would refuse it row by row."""
    tenants, problems = read(tmp_path, f"{HEADER}\nflat-2,,home,A\x1b[2J,,\n", tariff=None)
    assert [tenant.account_id for tenant in tenants] == ["flat-2"]
    assert [str(problem).rpartition("tenants.csv:")[2] for problem in problems] == [
        "2:14: name: has control characters"
    ]


def test_every_problem_is_told_at_its_place(tmp_path: Path) -> None:
    """One run names all that is wrong: ids, amounts, twice, what is missing."""
    text = (
        f"{HEADER}\n"
        "Flat 1,,home,,,\n"
        "flat-2,,,,1.0000000001,\n"
        ',flat-3,home,"a, b",x,\n'
        "flat-3,,home,,1e99,\n"
        "flat-4,,home,,1,\n"
        "flat-4,,home,,2,\n"
        "flat-5,flat-4,home,,99999999.00,\n"
        "flat-6,flat-4,home,,,nan\n"
        "flat-7,flat-4,home,,,\n"
    )
    _, problems = read(tmp_path, text)
    assert problems == [
        f"tenants.csv:{place}"
        for place in (
            f"2:1: account: is 'Flat 1': expected {ID_WORDS}",
            "3:9: tariff: is missing: give it here or as --tariff",
            f"3:11: opening_balance: amount 1.0000000001 {TOO_FINE}",
            "4:1: account: is missing: the account's id",
            "4:21: opening_balance: amount 'x' is no decimal such as \"12.50\"",
            "5:15: opening_balance: amount 1e99 is too large",
            f"7:1: account: the account 'flat-4' stands twice, first at {tmp_path}/tenants.csv:6:1",
            f"8:8: service_point: the point 'flat-4' is taken at {tmp_path}/tenants.csv:6:1",
            "8:21: opening_balance: is beyond the maximum",
            f"9:8: service_point: the point 'flat-4' is taken at {tmp_path}/tenants.csv:6:1",
            "9:22: disablement_threshold: amount 'nan' is not a number",
            f"10:8: service_point: the point 'flat-4' is taken at {tmp_path}/tenants.csv:6:1",
        )
    ]


def test_loans_and_debts_are_taken_over(tmp_path: Path) -> None:
    """A debt with its share; the key of a row without them is that of a file without them."""
    header = "account,emergency_limit,debt_amount,debt_share"
    text = f"{header}\nflat-1,50,120.50,12.5\nflat-2,,,\n"
    (first, second), problems = read(tmp_path, text, tariff="home")
    assert problems == []
    assert (first.emergency_limit_nano, first.debt_nano) == (50 * 10**9, 120_500_000_000)
    assert first.debt_share_ppm == 125_000
    assert (second.emergency_limit_nano, second.debt_nano, second.debt_share_ppm) == (0, 0, 0)
    (plain,), _ = read(tmp_path, "account\nflat-2\n", tariff="home")
    (alone,), _ = read(tmp_path, "account\nflat-1\n", tariff="home")
    assert second.key(1) == plain.key(1)
    assert len({first.key(1), first.debt_key(1), alone.key(1), first.debt_key(2)}) == 4


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("-1,,", "2:8: emergency_limit: is below zero"),
        (",-5,10", "2:9: debt_amount: is below zero"),
        (",5,", "2:11: debt_share: is missing: debt_amount and debt_share (percent) go together"),
        (",,5", "2:9: debt_amount: is missing: debt_amount and debt_share (percent) go together"),
        (",5,0", "2:11: debt_share: is no share: above 0 and up to 100 percent of every recharge"),
        (
            ",5,101",
            "2:11: debt_share: is no share: above 0 and up to 100 percent of every recharge",
        ),
        (",5,ten", "2:11: debt_share: share 'ten' is no decimal such as \"12.50\""),
    ],
)
def test_wrong_loan_or_debt_is_told_at_its_place(tmp_path: Path, cells: str, problem: str) -> None:
    """Nothing is taken over with a sign or a share that cannot be meant."""
    header = "account,emergency_limit,debt_amount,debt_share"
    _, problems = read(tmp_path, f"{header}\nflat-1,{cells}\n", tariff="home")
    assert problems == [f"tenants.csv:{problem}"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("acount,tariff", "unknown column 'acount': did you mean 'account'?"),
        ("account,account", "the column 'account' stands twice"),
        ("account,,tariff", "a column without a name"),
        ("", "is empty: its first line names the columns"),
    ],
)
def test_wrong_header_is_refused_whole(tmp_path: Path, header: str, message: str) -> None:
    """A column that nobody knows is no silent loss of what stands in it."""
    with pytest.raises(FileRefusedError) as refused:
        read(tmp_path, f"{header}\nflat-1,home\n" if header else "")
    assert message in str(refused.value)


def test_header_without_the_account_is_one_problem(tmp_path: Path) -> None:
    """Not one for each of 800 rows."""
    tenants, problems = read(tmp_path, "tariff\n" + "home\n" * 50)
    assert (tenants, problems) == (
        [],
        ["tenants.csv:1:1: account: is missing: the account's id"],
    )


def test_amounts_follow_the_sites_scale(tmp_path: Path) -> None:
    """A site of large amounts keeps six decimals: a seventh is refused, none is dropped."""
    idr = Currency("IDR", 6, 0)
    tenants, problems = read(
        tmp_path, "account,opening_balance\na,0.000001\nb,0.0000001\n", tariff="t", currency=idr
    )
    assert tenants[0].opening_balance_nano == 1
    assert [problem.split(": ", 2)[0] for problem in problems] == ["tenants.csv:3:3"]


def test_site_is_compared_before_anything_is_done(tmp_path: Path) -> None:
    """Unknown points and tariffs, taken points, closed and differing accounts, each by place."""
    text = (
        f"{HEADER}\n"
        "anna,flat-22,home,,,\n"
        "bela,flat-2,hme,,,\n"
        "carl,flat-1,home,,,\n"
        "gone,flat-3,home,,,\n"
        "flat-1,flat-4,home,,,\n"
    )
    tenants, problems = read(tmp_path, text)
    assert problems == []
    found = [str(p).removeprefix(f"{tmp_path}/tenants.csv:") for p in compare(tenants, SITE)]
    assert found == [
        "2:6: service_point: no meter serves the point 'flat-22': did you mean 'flat-2'?",
        "3:13: tariff: no tariff 'hme' is published: did you mean 'home'?",
        "4:6: service_point: the point 'flat-1' has the open account flat-1",
        "5:1: account: is closed for good: take another id",
        "6:8: service_point: the account is open at the point flat-1",
    ]
    for row, message in (
        ("flat-1,,shop,,,", "2:9: tariff: the account is open with home"),
        ("flat-1,,home,,,5", "2:16: disablement_threshold: the account is open with another"),
    ):
        tenants, _ = read(tmp_path, f"{HEADER}\n{row}\n")
        (problem,) = compare(tenants, SITE)
        assert message in str(problem)


def test_key_follows_the_content_of_a_row(tmp_path: Path) -> None:
    """The same row elsewhere or written otherwise is the same wish; any other content is not."""
    one, two, three, four = read(
        tmp_path,
        "account,service_point,opening_balance,name\n"
        "a,p,20,x\n\nb,p2,1,\nc,p3,20,x\nd,p4,20.00,x\n",
        tariff="home",
    )[0]
    moved = read(
        tmp_path, "account;service_point;name;opening_balance\na;p;x;20.000\n", tariff="home"
    )[0][0]
    assert moved.key(1) == one.key(1)
    assert one.key(1) != one.key(2)
    assert len({tenant.key(1) for tenant in (one, two, three, four)}) == 4
    other = read(tmp_path, "account,service_point,opening_balance,name\na,p,21,x\n", tariff="home")
    assert other[0][0].key(1) != one.key(1)


def test_a_large_file_costs_a_moment(tmp_path: Path) -> None:
    """800 good rows are read and compared in well under a second."""
    rows = [f"flat-{n},,home,Tenant {n},{n}.50," for n in range(800)]
    points = frozenset(f"flat-{n}" for n in range(800))
    begun = time.perf_counter()
    tenants, problems = read(tmp_path, "\n".join([HEADER, *rows]))
    assert problems == []
    assert compare(tenants, Present(points, frozenset({"home"}), {})) == []
    assert time.perf_counter() - begun < 1.0
    assert len(tenants) == 800
