"""`tariff replay` beside a running control: real stores, real postings, readings of a week."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gateway.app.cli import app
from gateway.app.paths import paths_of
from gateway.app.replay_report import percent
from gateway.app.tariff_file import tariff_of_file
from gateway.app.tariff_replay import ReplayReport, ReplayWish, replay_tariff
from gateway.core.errors import GatewayError, RefusedError
from gateway.core.money import Currency
from gateway.core.pricing import Pricer
from gateway.core.requests import (
    ChangeTariff,
    CommissionPoint,
    OpenAccount,
    PublishTariff,
    Recharge,
)
from tests.app.control_site import START_MS, ControlSite

INR = Currency("INR")
NANO = 10**9
STEP_S = 907  # no divisor of an hour: boundaries fall between readings
DAYS = 3

HOME: dict[str, object] = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01",
    "period": {"day": 16},
    "grid": {
        "bands": {
            "peak": {"price": "9.00", "when": [{"from": "18:00", "to": "22:00"}]},
            "rest": {"blocks": [{"upto_kwh": 20, "price": "3.50"}, {"price": "6.25"}]},
        }
    },
    "generator": {"price": "25.00"},
    "fixed": {"amount": "50.00", "collect": "first_recharge"},
    "minimum": {"amount": "900"},
    "rebates": [{"name": "Lifeline", "per_kwh": "1", "upto_kwh": 30}],
    "taxes": [{"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed", "rebate"]}],
}
DRAFT: dict[str, object] = {
    **HOME,
    "period": "month",
    "grid": {
        "bands": {
            "sun": {"price": "2.50", "when": [{"from": "09:30", "to": "16:45"}]},
            "rest": {"price": "7.00"},
        }
    },
    "fixed": {"amount": "31.00", "collect": "daily"},
    "minimum": {"amount": "0"},
    "rebates": [],
}


def draft_file(folder: Path, document: Mapping[str, object], name: str = "draft.yaml") -> Path:
    """A document as a person writes it."""
    path = folder / name
    path.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
    return path


class Flats:
    """Two flats that use energy; what each used, by time, is remembered."""

    def __init__(self, site: ControlSite) -> None:
        self.site = site
        self.chance = random.Random(7)
        self.wh = [0, 0]
        self.used: list[list[tuple[int, int, int]]] = [[], []]
        self.last_ms = [START_MS, START_MS]

    async def read(self, index: int) -> None:
        """The meter was read just now."""
        now_ms = self.site.clock.utc_ms()
        wh = self.chance.choice((0, 3, 40, 200, 900))
        self.wh[index] += wh
        self.used[index].append((wh, self.last_ms[index], now_ms))
        self.last_ms[index] = now_ms
        self.site.read(self.wh[index], index=index)

    async def live(self, steps: int, *, away: int = -1) -> None:
        """Readings and sweeps; the meter of index `away` is out of reach."""
        for _ in range(steps):
            self.site.clock.pass_s(STEP_S)
            for index in (0, 1):
                if index != away:
                    await self.read(index)
            await self.site.sweeper.sweep()


async def begun(folder: Path) -> Flats:
    """Both accounts are open under `home`, and nothing was used yet."""
    site = ControlSite(folder)
    flats = Flats(site)
    for index in (0, 1):
        site.read(0, index=index)
    await site.sweeper.sweep()
    await site.do(PublishTariff(json.dumps(HOME)))
    for name in ("flat-1", "flat-2"):
        await site.do(OpenAccount(name, name, "home", opening_balance_nano=10**6 * NANO))
        await site.do(CommissionPoint(name))
    return flats


async def lived(folder: Path) -> Flats:
    """Some days with a recharge in the middle, posted up to now."""
    flats = await begun(folder)
    await flats.live(DAYS * 86_400 // STEP_S // 2)
    await flats.site.do(Recharge("flat-1", 500 * NANO, "desk", "r1"))
    await flats.live(DAYS * 86_400 // STEP_S // 2)
    await flats.site.books.post((0, 1))
    await flats.site.display.flush()
    return flats


def ledger_charged(site: ControlSite, account_id: str) -> int:
    """The sum of everything that settlement lines charged an account, from the file itself."""
    rows = site.file.connection.execute(
        "SELECT charges FROM settlement WHERE account_id = ?", (account_id,)
    )
    return sum(sum(json.loads(row[0]).values()) for row in rows)


def report_of(site: ControlSite, file: Path, **wish: tuple[str, ...]) -> ReplayReport:
    """The replay of everything that was ever settled."""
    draft = tariff_of_file(file, INR)
    return replay_tariff(site.config, ReplayWish(draft, 30, **wish), lambda _done, _all: None)


@pytest.mark.slow
async def test_the_tariff_in_force_comes_to_what_the_ledger_charged(tmp_path: Path) -> None:
    """Blocks, bands, fee at the recharge, minimum, rebate and tax, over a close: to the nano."""
    flats = await lived(tmp_path)
    report = report_of(flats.site, draft_file(tmp_path, HOME))
    assert len(report.accounts) == 2
    for item in report.accounts:
        index = int(item.account_id[-1]) - 1
        assert item.charged_nano == ledger_charged(flats.site, item.account_id) > 0
        assert item.draft == item.charged
        assert item.unexplained_nano == 0
        assert item.estimated_wh == 0
        assert item.energy_wh == sum(wh for wh, _, _ in flats.used[index])
    assert {"fixed", "rebate:Lifeline", "tax:VAT"} <= set(report.accounts[0].charged) | set(
        report.accounts[1].charged
    )
    flats.site.crash()


@pytest.mark.slow
async def test_a_draft_with_other_hours_comes_to_what_it_would_have_charged(tmp_path: Path) -> None:
    """The readings that telemetry keeps say when each Wh flowed, as exactly as the poll period."""
    flats = await lived(tmp_path)
    file = draft_file(tmp_path, DRAFT)
    report = report_of(flats.site, file)
    draft = tariff_of_file(file, INR)
    start_ms = flats.site.file.connection.execute(
        "SELECT from_utc_ms FROM account_point"
    ).fetchone()
    for item in report.accounts:
        pricer = Pricer([draft], start_utc_ms=start_ms[0], sources=("grid", "generator"))
        for wh, begin_ms, end_ms in flats.used[int(item.account_id[-1]) - 1]:
            pricer.advance({"grid": wh}, begin_ms, end_ms)
        pricer.close_periods(report.until_utc_ms)
        assert item.draft_nano == pricer.charged_nano()
        assert item.estimated_wh > 0  # 15 minutes between readings: more than posting.gap_s
        assert item.unexplained_nano == 0
    flats.site.crash()


@pytest.mark.slow
async def test_registers_that_are_missing_leave_energy_bounded(tmp_path: Path) -> None:
    """A meter that was out of reach over the draft's noon, and telemetry that is gone: it says so,
    and the tariff in force still comes out exactly, because its cells were settled."""
    flats = await begun(tmp_path)
    await flats.live(20)
    await flats.live(120, away=1)
    await flats.live(20)
    await flats.site.books.post((0, 1))
    report = report_of(flats.site, draft_file(tmp_path, DRAFT))
    by_id = {item.account_id: item for item in report.accounts}
    assert by_id["flat-2"].estimated_wh > 0
    flats.site.keeper.close(5)
    gone = list(paths_of(flats.site.config).telemetry_dir.glob("**/*.db"))
    assert gone
    for path in gone:
        path.unlink()
    bare = report_of(flats.site, draft_file(tmp_path, DRAFT))
    same = report_of(flats.site, draft_file(tmp_path, HOME))
    for item in (*bare.accounts, *same.accounts):
        assert item.unexplained_nano == 0
    for item in same.accounts:
        assert item.difference_nano == 0
        assert item.charged_nano == ledger_charged(flats.site, item.account_id)


@pytest.mark.slow
async def test_a_change_of_tariff_is_two_stays_of_one_account(tmp_path: Path) -> None:
    """Fees of both tariffs are for the days of each; only the stay under `home` is replayed by its
    id, both by the account."""
    flats = await begun(tmp_path)
    await flats.live(90)
    await flats.site.do(PublishTariff(json.dumps({**DRAFT, "id": "other"})))
    await flats.site.do(ChangeTariff("flat-1", "other"))
    await flats.live(60)
    await flats.site.books.post((0, 1))
    file = draft_file(tmp_path, HOME)
    whole = report_of(flats.site, file, accounts=("flat-1",)).accounts
    assert [item.account_id for item in whole] == ["flat-1"]
    assert whole[0].unexplained_nano == 0
    assert whole[0].charged_nano == ledger_charged(flats.site, "flat-1")
    home = {item.account_id: item for item in report_of(flats.site, file).accounts}
    other = report_of(flats.site, file, tariff_ids=("other",)).accounts
    parts = Counter(home["flat-1"].charged)
    parts.update(other[0].charged)
    assert parts == Counter(whole[0].charged)
    assert home["flat-1"].difference_nano == 0
    flats.site.crash()


@pytest.mark.slow
async def test_the_command_shows_each_account_with_units(tmp_path: Path) -> None:
    """A table with a total, the biggest difference first; JSON with exact amounts."""
    flats = await lived(tmp_path)
    config = str(flats.site.config.path)
    file = str(draft_file(tmp_path, DRAFT))
    run = CliRunner().invoke(
        app, ["tariff", "replay", file, "-c", config, "--days", "3"], env={"COLUMNS": "120"}
    )
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    assert "kWh" in run.stdout
    assert "difference, INR" in run.stdout
    rows = [line.split() for line in lines if line.lstrip().startswith(("flat-", "all accounts"))]
    assert [row[0] for row in rows][-1] == "all"
    assert abs(float(rows[0][4])) >= abs(float(rows[1][4]))
    answer = CliRunner().invoke(app, ["tariff", "replay", file, "-c", config, "--json"])
    found = json.loads(answer.stdout)
    assert found["draft"] == "home"
    assert len(found["accounts"]) == 2
    sums = [sum(float(item[name]) for item in found["accounts"]) for name in ("charged", "draft")]
    assert float(found["total"]["charged"]) == pytest.approx(sums[0])
    assert float(found["total"]["draft"]) == pytest.approx(sums[1])
    flats.site.crash()


async def test_what_cannot_be_replayed_is_refused_by_name(tmp_path: Path) -> None:
    """Unknown account, unknown tariff, nothing settled, a broken draft with its place."""
    flats = await begun(tmp_path)
    file = draft_file(tmp_path, HOME)
    refusals: dict[str, dict[str, tuple[str, ...]]] = {
        "ACCOUNT_UNKNOWN": {"accounts": ("flat-7",)},
        "TARIFF_UNKNOWN": {"tariff_ids": ("nobody",)},
    }
    for code, wish in refusals.items():
        with pytest.raises(RefusedError) as refusal:
            report_of(flats.site, file, **wish)
        assert refusal.value.refusal_code == code
    broken = draft_file(tmp_path, {**HOME, "grid": {"price": "a lot"}}, "broken.yaml")
    with pytest.raises(GatewayError) as problem:
        CliRunner().invoke(
            app,
            ["tariff", "replay", str(broken), "-c", str(flats.site.config.path)],
            catch_exceptions=False,
        )
    assert "broken.yaml:" in str(problem.value)
    assert "grid.price" in str(problem.value)
    flats.site.crash()


async def test_a_window_without_energy_is_refused(tmp_path: Path) -> None:
    """An account that was opened and never posted anything."""
    flats = await begun(tmp_path)
    with pytest.raises(RefusedError) as refusal:
        report_of(flats.site, draft_file(tmp_path, HOME))
    assert refusal.value.refusal_code == "NOTHING_SETTLED"
    flats.site.crash()


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(5, 100, "+5.0"), (-5, 100, "-5.0"), (0, 7, "0.0"), (1, 2_000, "+0.1"), (-1, 2_001, "0.0"),
     (7, 0, None), (7, -3, None), (10**30, 10**30, "+100.0")],
)  # fmt: skip
def test_percent_is_rounded_half_away_from_zero(part: int, whole: int, shown: str | None) -> None:
    """One decimal by integers, whatever the size."""
    assert percent(part, whole) == shown
