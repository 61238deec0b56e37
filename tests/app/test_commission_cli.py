"""`meter commission`, its reports and their signatures, as a person runs them."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.app.cli import app, run
from gateway.app.clock import SystemClock
from gateway.app.commission.switchers import choose_switcher
from gateway.app.paths import paths_of
from gateway.app.site_key import load_site_key
from gateway.core.errors import RefusedError
from gateway.sim.faults import fault_named
from gateway.store.live import LiveTableWriter
from tests.app.commission_site import CommissionSite, commission_site


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it wrote."""

    status: object
    out: str
    err: str


Command = Callable[..., Coroutine[None, None, Ended]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[CommissionSite]:
    """Three healthy meters and the key of their site."""
    async with commission_site(tmp_path, meters=3) as running:
        control = paths_of(running.config).control_dir
        control.mkdir(parents=True)
        load_site_key(control)
        yield running


@pytest.fixture
def command(
    site: CommissionSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command of the program beside the simulated site."""
    monkeypatch.setenv("COLUMNS", "300")

    async def execute(*words: str) -> Ended:
        def work() -> object:
            with pytest.raises(SystemExit) as ended:
                run(lambda: app([*words]))
            return ended.value.code

        capsys.readouterr()
        status = await asyncio.to_thread(work)
        written = capsys.readouterr()
        return Ended(status, written.out, written.err)

    assert site.path.exists()
    return execute


@pytest.mark.slow
async def test_a_healthy_meter_gets_a_signed_report(site: CommissionSite, command: Command) -> None:
    """The report verifies against the site's key; a changed one, or another key, does not."""
    config, name = str(site.path), site.config.meters[0].meter_id
    ended = await command(
        "meter", "commission", name, "--check-only", "--by", "R. Wire", "-c", config
    )
    assert ended.status == 0, ended.err
    directory = site.path.parent / "commissioning"
    path = directory / f"{name}.json"
    good = await command("meter", "verify-report", str(path), "-c", config)
    assert (good.status, good.err) == (0, "")
    document = json.loads(path.read_text())
    assert document["report"]["by"] == "R. Wire"
    assert document["report"]["found"]["ct_ratio"] == "100/5"
    assert "| CT_RATIO | ok |" in path.with_suffix(".md").read_text()

    document["report"]["configured"]["ct_ratio"] = "200/5"
    path.write_text(json.dumps(document))
    tampered = await command("meter", "verify-report", str(path), "-c", config)
    assert tampered.status == 1
    assert "changed after it was signed" in tampered.err

    document["report"]["configured"]["ct_ratio"] = "100/5"
    path.write_text(json.dumps(document))
    stranger = await command("meter", "verify-report", str(path), "--public-key", "00" * 32)
    assert (stranger.status, "another key" in stranger.err) == (1, True)
    unnamed = await command("meter", "verify-report", str(path))
    assert (unnamed.status, "site-key.pub" in unnamed.err) == (0, True)


@pytest.mark.slow
async def test_all_meters_go_on_where_they_stopped(site: CommissionSite, command: Command) -> None:
    """`--all` leaves out who has a good report; the site's report counts and is signed itself."""
    config = str(site.path)
    names = [meter.meter_id for meter in site.config.meters]
    await site.site.add_fault(names[1], fault_named("password"))
    first = await command("meter", "commission", "--all", "--check-only", "--json", "-c", config)
    assert first.status == 1
    told = {each["meter"]: each for each in json.loads(first.out)}
    assert [told[name]["verdict"] for name in names] == ["passed", "failed", "passed"]
    assert f"{names[1]}: PROTECTION: " in first.err

    site_report = await command("meter", "commission-report", "-c", config)
    assert "2 of 3 meters (66 %)" in site_report.out
    path = site.path.parent / "commissioning" / "_site.json"
    assert (await command("meter", "verify-report", str(path), "-c", config)).status == 0

    await site.site.clear_faults(names[1])
    again = await command("meter", "commission", "--all", "--check-only", "--json", "-c", config)
    assert [each["meter"] for each in json.loads(again.out)] == [names[1]]
    assert again.status == 0
    # A switch proof is still open everywhere.
    third = await command(
        *("meter", "commission", "--all", "--with-load", "--yes", "--check-only", "--json"),
        *("-c", config),
    )
    assert [each["meter"] for each in json.loads(third.out)] == names
    last = await command(
        "meter",
        "commission",
        "--all",
        "--with-load",
        "--yes",
        "--check-only",
        "--json",
        "-c",
        config,
    )
    assert json.loads(last.out) == []


@pytest.mark.slow
async def test_without_key_or_gateway_it_is_said_plainly(
    site: CommissionSite, command: Command
) -> None:
    """No readable key: an unsigned report. No gateway: a report, and status 1."""
    config, name = str(site.path), site.config.meters[0].meter_id
    control = paths_of(site.config).control_dir
    for key in control.iterdir():
        key.unlink()
    ended = await command("meter", "commission", name, "-c", config)
    assert ended.status == 1
    assert "the report is not signed: there is no " in ended.err
    assert "supply is not enforced: no north process answers" in ended.err
    # A key made by the wrong user would lock control out.
    assert list(control.iterdir()) == []
    path = site.path.parent / "commissioning" / f"{name}.json"
    unsigned = await command("meter", "verify-report", str(path))
    assert (unsigned.status, "is not signed" in unsigned.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "give the meter's id, or --all"),
        (("flat-1", "--all"), "give the meter's id, or --all"),
        (("shop-1", "--accept", "CT_RATIO"), "say why with --reason"),
        (("shop-1", "--accept", "IDENTITY", "--reason", "x"), "IDENTITY cannot be accepted"),
        (("shop-1", "--reference-w", "1"), "20"),
    ],
)
async def test_wrong_use_is_told(
    command: Command, site: CommissionSite, words: tuple[str, ...], problem: str
) -> None:
    """Nothing is asked of a meter when the words do not fit: status 2."""
    ended = await command("meter", "commission", *words, "-c", str(site.path))
    assert (ended.status, problem in " ".join(ended.err.split())) == (2, True), ended.err


async def test_files_that_are_no_reports_are_refused(
    tmp_path: Path, command: Command, site: CommissionSite
) -> None:
    """Another file, a cut one, a deep one: one line and status 1; the site's report goes on."""
    directory = tmp_path / "commissioning"
    directory.mkdir()
    (directory / "shop-1.json").write_text("{")
    cut = '{"report": {"format": "prepaid-gateway commissioning 1", "site": "palm"}}'
    (directory / "shop-2.json").write_text(cut)
    told = await command("meter", "commission-report", "-c", str(site.path))
    assert (told.status, told.out.count("unreadable report"), "0 of 3" in told.out) == (0, 2, True)
    path = tmp_path / "x.json"
    for content in ("", "[]", '{"report": {"format": "other"}}', "[" * 100_000):
        path.write_text(content)
        ended = await command("meter", "verify-report", str(path))
        assert (ended.status, ended.err.startswith("REPORT_FILE: ")) == (1, True), ended.err


async def test_nobody_switches_beside_a_control_that_cannot_be_asked(site: CommissionSite) -> None:
    """Control's heart beats and north is away: refused; once control is silent, directly."""
    clock, meter = SystemClock(), site.config.meters[0]
    live = paths_of(site.config).live_dir
    live.mkdir(parents=True)
    table = LiveTableWriter(live, (), "boot")
    table.beat(clock.utc_ms())

    async def chosen() -> str:
        from gateway.app.commission.survey import survey_client

        client = survey_client(meter, clock)
        return (await choose_switcher(site.config, meter, clock, client)).path

    with pytest.raises(RefusedError, match="only control may switch"):
        await chosen()
    table.beat(clock.utc_ms() - 60_000)
    assert await chosen() == "directly at the meter"
    table.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_a_signal_in_mid_proof_leaves_nobody_in_the_dark(
    site: CommissionSite, number: signal.Signals
) -> None:
    """Ctrl-C or a closed terminal while the contactor is open: closed again, then status 1."""
    name, meter = site.config.meters[0].meter_id, site.customer(0).meter

    def is_closed() -> bool:
        meter.advance(site.site.now_s())
        return meter.contactor.closed

    # Little load: the counter would have to be watched for half a minute.
    site.site.set_load(name, 60.0)
    site.path.write_text(site.path.read_text().replace('feedback: "0.1", ', ""))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "meter", "commission", name, "--with-load", "--yes"),
        *("--check-only", "-c", str(site.path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        while is_closed():
            await asyncio.sleep(0.05)
        process.send_signal(number)
        _, err = await process.communicate()
    assert is_closed()
    assert process.returncode == 1
    assert b"ending; a supply that is open is closed first" in err
