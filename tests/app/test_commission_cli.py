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
from gateway.app.commission.report import meter_report, signer_of, write_report
from gateway.app.commission.run import Examined
from gateway.app.commission.switchers import choose_switcher
from gateway.app.paths import paths_of
from gateway.app.site_key import PUBLIC_NAME, load_site_key
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


def sign(site: CommissionSite, meter: int, **changed: object) -> Path:
    """A report of a meter as the site's key would sign it; its path."""
    config = site.config
    examined = Examined(None, (), (), {})
    document = meter_report(config, config.meters[meter], examined, by="x", at="2026-01-01")
    signer, problem = signer_of(paths_of(config).control_dir)
    directory = site.path.parent / "commissioning"
    assert problem == ""
    name = config.meters[meter].meter_id
    return write_report(directory, name, document | changed, "", signer)


@pytest.mark.slow
async def test_what_a_signature_proves(site: CommissionSite, command: Command) -> None:
    """Whose report it is stands in it; another's, an old one's and one of no known key count for
    nothing in the site's report."""
    config, control = str(site.path), paths_of(site.config).control_dir
    first, second, third = (sign(site, meter) for meter in range(3))
    assert "3 of 3" in (await command("meter", "commission-report", "-c", config)).out
    # Another meter's report under this one's name; one from before the meter was exchanged; one
    # whose names stand twice.
    first.write_text(second.read_text())
    sign(site, 1, configured={"serial_number": "of the old one"})
    twice = third.read_text().replace('"by": "x"', '"by": "somebody", "by": "x"')
    third.write_text(twice)
    replayed = await command("meter", "verify-report", str(first), "-c", config)
    assert (replayed.status, site.config.meters[1].meter_id in replayed.out) == (0, True)
    doubled = await command("meter", "verify-report", str(third), "-c", config)
    assert (doubled.status, "stands twice" in doubled.err) == (1, True)
    told = await command("meter", "commission-report", "-c", config)
    for words in ("0 of 3", "report of another meter", "configuration changed", "unreadable"):
        assert words in told.out, words
    # Whoever cannot read the site's key cannot say that it was the site who signed.
    for meter in range(3):
        sign(site, meter)
    (control / PUBLIC_NAME).unlink()
    told = await command("meter", "commission-report", "-c", config)
    assert ("0 of 3" in told.out, "not compared" in told.out) == (True, True)
    away = await command("meter", "verify-report", str(first), "-c", config)
    assert (away.status, "not compared" in away.err) == (1, True)


async def test_reports_change_nothing_in_controls_directory(
    site: CommissionSite, command: Command
) -> None:
    """An old key file beside the key that control has from systemd: its public key stays, and
    nothing is signed with the old one."""
    control = paths_of(site.config).control_dir
    (control / PUBLIC_NAME).write_text("ab" * 32 + "\n")
    ended = await command("meter", "commission-report", "-c", str(site.path))
    assert "control has another one" in ended.err
    assert (control / PUBLIC_NAME).read_text() == "ab" * 32 + "\n"


async def test_reports_that_cannot_be_written_are_told_before_anything(
    site: CommissionSite, command: Command
) -> None:
    """Nobody's supply is taken away for a report that has no place; links are not followed."""
    (site.path.parent / "file").write_text("x")
    words = ("meter", "commission", site.config.meters[0].meter_id, "--with-load", "--yes")
    ended = await command(*words, "--out", str(site.path.parent / "file"), "-c", str(site.path))
    assert (ended.status, ended.err.startswith("REPORT_FILE")) == (1, True)
    assert site.customer(0).port.answered == 0
    stranger = site.path.parent / "stranger"
    stranger.write_text("precious")
    (site.path.parent / "commissioning").mkdir()
    name = f".{site.config.meters[0].meter_id}.json.new"
    (site.path.parent / "commissioning" / name).symlink_to(stranger)
    sign(site, 0)
    assert stranger.read_text() == "precious"


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
    word = ("--accept", "UNPROVEN", "--reason", "tenant away")
    ended = await command("meter", "commission", name, *word, "-c", config)
    assert ended.status == 1
    assert "the report is not signed: there is no " in ended.err
    assert "supply is not enforced: no north process answers" in ended.err
    # A key made by the wrong user would lock control out.
    assert list(control.iterdir()) == []
    path = site.path.parent / "commissioning" / f"{name}.json"
    unsigned = await command("meter", "verify-report", str(path))
    assert (unsigned.status, "is not signed" in unsigned.err) == (1, True)
    # Whoever took the responsibility stands in both reports.
    assert "- UNPROVEN: tenant away" in path.with_suffix(".md").read_text()
    told = await command("meter", "commission-report", "-c", config)
    assert "UNPROVEN accepted" in told.out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "give the meter's id, or --all"),
        (("flat-1", "--all"), "give the meter's id, or --all"),
        (("shop-1", "--accept", "CT_RATIO"), "say why with --reason"),
        (("shop-1", "--accept", "IDENTITY", "--reason", "x"), "IDENTITY cannot be accepted"),
        (("shop-1", "--accept", "SWITCH_CLOSE", "--reason", "x"), "SWITCH_CLOSE cannot be accept"),
        (("shop-1", "--reference-w", "1"), "20"),
        (("--all", "--key", "k"), "one key is for one meter"),
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
