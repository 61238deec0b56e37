"""`doctor`: every kind of trouble in a sentence with its next step, and nothing is touched."""

import datetime as dt
import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from gateway.app.cli import app
from gateway.app.config import load_config
from gateway.app.doctor import host, network
from gateway.app.doctor.findings import Finding, Verdict, named
from gateway.app.doctor.host import look_at_host
from gateway.app.doctor.meters import chosen_meters
from gateway.app.doctor.network import read_routes, route_to
from gateway.app.doctor.stores import look_at_stores
from gateway.core.recovery import RecoveryReason
from gateway.store.board import BoardWriter
from gateway.store.recovery import enter_recovery, recovery_now
from tests.app.backup_site import backed_up, begun, paths, tree
from tests.app.control_site import ControlSite

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth1\t00010A0A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


@pytest.fixture
async def site(tmp_path: Path) -> ControlSite:
    """A control that runs."""
    return await begun(tmp_path / "site")


def sentences(findings: Iterable[Finding], verdict: Verdict) -> list[str]:
    """What was said with this verdict; whoever warns says what to do."""
    found = list(findings)
    assert all(bool(f.next_step) == (f.verdict is not Verdict.OK) for f in found)
    return [f.sentence for f in found if f.verdict is verdict]


def stores(site: ControlSite) -> list[Finding]:
    """What it says about the stores; their files are as they were."""
    before = tree(site.config.state_dir)
    found = list(look_at_stores(site.config, site.clock))
    assert tree(site.config.state_dir) == before
    return found


def test_a_site_in_order_has_no_problem(site: ControlSite) -> None:
    """Control runs (it is named), the stores are in order; north is not started yet."""
    found = stores(site)
    assert sentences(found, Verdict.PROBLEM) == []
    fine = sentences(found, Verdict.OK)
    assert any(line.startswith("control runs as process ") for line in fine)
    assert any("ledger.db: every page is in order" in line for line in fine)
    assert "north is not running." in sentences(found, Verdict.WARNING)


def test_open_directories_foreign_files_and_a_readable_key(site: ControlSite) -> None:
    """Each with the command that puts it right."""
    directory = paths(site).control_dir
    directory.chmod(0o755)
    (directory / "site-key.pem").write_text("private")
    (directory / "site-key.pem").chmod(0o640)
    found = stores(site)
    problems = sentences(found, Verdict.PROBLEM)
    assert any(f"{directory} is open to others (mode 755)" in line for line in problems)
    assert "Others may read the site's key." in problems
    assert f"chmod 750 {directory}" in [finding.next_step for finding in found]


def test_a_damaged_and_a_missing_store(site: ControlSite) -> None:
    """The file is named; the way out is a restore, or `init` for a new site."""
    site.crash()
    north = paths(site).north_dir / "north.db"
    content = bytearray(north.read_bytes())
    content[4_096:20_480] = bytes(16_384)
    north.write_bytes(content)
    paths(site).ledger.unlink()
    problems = sentences(stores(site), Verdict.PROBLEM)
    assert any("north.db cannot be used" in line for line in problems)
    assert any("ledger.db does not exist" in line for line in problems)


def test_recovery_and_what_a_restore_left_are_told(site: ControlSite) -> None:
    """Both are easily forgotten."""
    connection = site.file.connection
    enter_recovery(connection, recovery_now(connection, RecoveryReason.RESTORED, utc_ms=1))
    (site.config.state_dir / "control.before-restore-20270101T000000Z").mkdir()
    warnings = sentences(stores(site), Verdict.WARNING)
    assert any("RECOVERY (restored)" in line for line in warnings)
    assert any("control.before-restore-20270101T000000Z" in line for line in warnings)


def test_the_age_of_backups(site: ControlSite, tmp_path: Path) -> None:
    """None configured, none made, a fresh one, an old one."""
    assert any("No directory for backups" in s for s in sentences(stores(site), Verdict.WARNING))
    config = site.config.path
    off = tmp_path / "off"
    config.write_text(config.read_text() + f"backup: {{directory: {off}}}\n")
    site.config = load_config(config)
    assert any("off: No such" in s for s in sentences(stores(site), Verdict.PROBLEM))
    off.mkdir()
    assert any("holds no backup" in s for s in sentences(stores(site), Verdict.PROBLEM))
    made = backed_up(site, off)
    site.clock.wall_ms = round(made.path.stat().st_mtime * 1000) + 3_600_000
    assert "1 backups, the newest is 1 hours old." in sentences(stores(site), Verdict.OK)
    site.clock.wall_ms += 50 * 3_600_000
    assert any("51 hours old" in s for s in sentences(stores(site), Verdict.PROBLEM))


def test_the_machine(site: ControlSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk, speed, descriptors, clock and memory are all spoken of; a slow disk is warned of."""
    areas = {finding.area for finding in look_at_host(site.config, site.clock)}
    assert areas == {"disk", "limits", "clock", "memory"}
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 0:30 / {site.config.state_dir} rw - nfs4 x rw\n"
    )
    monkeypatch.setattr(host, "MOUNTS", mounts)
    monkeypatch.setattr(host, "FSYNC_P99_MS", -1.0)
    found = list(look_at_host(site.config, site.clock))
    assert any("network share (nfs4)" in s for s in sentences(found, Verdict.PROBLEM))
    assert any("recharges and closings are felt" in s for s in sentences(found, Verdict.WARNING))


def test_ways_to_meters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct, over a router, and nowhere, as the kernel's table has it."""
    table = tmp_path / "route"
    table.write_text(ROUTES)
    monkeypatch.setattr(network, "ROUTES", table)
    routes = read_routes()
    direct = route_to(ipaddress.IPv4Address("10.10.1.11"), routes)
    routed = route_to(ipaddress.IPv4Address("10.10.2.11"), routes)
    assert direct is not None
    assert routed is not None
    assert (direct.interface, direct.via) == ("eth1", "")
    assert (routed.interface, routed.via) == ("eth0", "192.168.0.1")
    assert route_to(ipaddress.IPv4Address("10.10.2.11"), routes[:2]) is None


@pytest.mark.parametrize(
    ("days", "verdict", "words"),
    [
        (400, Verdict.OK, "good for"),
        (10, Verdict.WARNING, "expires in"),
        (-1, Verdict.PROBLEM, "expired"),
    ],
)
def test_the_end_of_a_certificate(
    site: ControlSite, tmp_path: Path, days: int, verdict: Verdict, words: str
) -> None:
    """Said a month before."""
    key = Ed25519PrivateKey.generate()
    now = dt.datetime.fromtimestamp(site.clock.utc_ms() / 1000, dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + dt.timedelta(days=days, hours=1))
        .sign(key, None)
    )
    path = tmp_path / "cert.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    found = network._certificate(path, site.clock)
    assert found.verdict is verdict
    assert words in found.sentence
    path.write_text("no certificate")
    assert network._certificate(path, site.clock).verdict is Verdict.PROBLEM


def test_meters_are_chosen_over_the_whole_list(site: ControlSite) -> None:
    """A fault of one riser shows in a few of many."""
    meters = [site.config.meters[0]] * 10
    assert chosen_meters(meters, None) == meters
    assert chosen_meters(meters, 99) == meters
    numbered = list(range(10))
    assert chosen_meters(numbered, 4) == [0, 2, 5, 7]  # type: ignore[arg-type, comparison-overlap]
    assert chosen_meters(meters, 0) == []


def test_many_names_are_counted() -> None:
    """A sentence stays one."""
    assert named(list("abc")) == "a, b, c"
    assert named(list("abcdefgh")) == "a, b, c, d, e and 3 more"


def test_a_wrong_configuration_is_a_finding(tmp_path: Path) -> None:
    """Every problem with its place, exit code 1, in JSON for programs."""
    path = tmp_path / "config.yaml"
    path.write_text("site: {id: Palm}\nsuply: {}\n")
    answer = CliRunner().invoke(app, ["doctor", "-c", str(path), "--json"])
    assert answer.exit_code == 1
    found = json.loads(answer.stdout)
    assert not found["ok"]
    assert any("suply: unknown key" in finding["sentence"] for finding in found["findings"])
    wrong = CliRunner().invoke(app, ["doctor", "-c", str(path), "--meters", "many"])
    assert wrong.exit_code == 2


def test_a_clock_that_control_does_not_trust(site: ControlSite) -> None:
    """It is told with its command; that labels stand still then is no sign of a hung control."""
    site.clock.pass_s(300)
    directory = paths(site).live_dir
    directory.mkdir(parents=True, exist_ok=True)
    for trusted in (0.0, 1.0):
        BoardWriter(directory).write(site.clock.utc_ms(), {"clock_trusted": trusted})
        told = list(look_at_host(site.config, site.clock))
        steps = [one.next_step for one in told if one.verdict is Verdict.PROBLEM]
        hung = [s for s in sentences(stores(site), Verdict.PROBLEM) if "committed nothing" in s]
        assert [("clock confirm" in step) for step in steps] == ([] if trusted else [True])
        assert bool(hung) is bool(trusted)


def test_a_running_control_that_commits_nothing(site: ControlSite) -> None:
    """The lock is held and the last sweep is old."""
    site.clock.pass_s(300)
    assert any("has committed nothing for" in s for s in sentences(stores(site), Verdict.PROBLEM))
