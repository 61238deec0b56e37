"""What `broker write` makes: users, certificates, files; test_broker_live.py tries it."""

import base64
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.app.broker.mosquitto import password_hash
from gateway.app.broker.users import (
    Added,
    added_user,
    gateway_password,
    own_nodes,
    parse_added,
    password_file,
    show_added,
)
from gateway.app.cli import app, run
from gateway.app.site_key import write_whole
from gateway.core.errors import ConfigurationError, RefusedError, StoreMissingError
from gateway.core.sealing import device_secret, mqtt_password
from gateway.store.devices import DeviceRecord, DeviceStatus
from tests.app.broker_site import BrokerSite, open_directory
from tests.app.control_site import HandClock
from tests.south.mosquitto import needs_broker

DAY_S = 86_400
KEY = bytes(range(32))
CHOSEN = "correct horse battery"
FILES = {"acl", "broker.conf", "ca.key", "ca.pem", "passwords", "server.key", "server.pem"}


@pytest.fixture
def site() -> Iterator[BrokerSite]:
    """A site whose broker is still to be written."""
    with open_directory() as place:
        yield BrokerSite(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_away_no_file_that_a_link_in_controls_directory_leads_to(
    site: BrokerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control's user may put a link in place of the password between writing and handing over."""
    control = site.directory.parent / "state" / "control"
    precious = site.directory.parent / "precious"
    precious.write_text("root's", encoding="utf-8")
    os.chown(control, 4_711, 4_711)

    def swapped(path: Path, content: bytes, mode: int) -> None:
        write_whole(path, content, mode)
        if path.parent == control:
            path.unlink()
            path.symlink_to(precious)

    monkeypatch.setattr("gateway.app.broker.write.write_whole", swapped)
    site.write()
    assert (precious.stat().st_uid, precious.stat().st_gid) == (0, 0)
    assert (control / "broker.password").lstat().st_uid == 4_711


def record(status: DeviceStatus, generation: int = 1) -> DeviceRecord:
    """A device on record."""
    return DeviceRecord("any", status, None, generation, "", 0, 0)


def contents(site: BrokerSite) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in site.directory.iterdir()
    }


def certificate(site: BrokerSite, name: str) -> x509.Certificate:
    """A certificate of the broker's directory."""
    return x509.load_pem_x509_certificate((site.directory / name).read_bytes())


def refusal(site: BrokerSite, clock: HandClock | None = None) -> str:
    """The code with which writing is refused."""
    with pytest.raises(RefusedError) as raised:
        site.write(clock=clock)
    return raised.value.refusal_code


# -- users -------------------------------------------------------------------------------------


@needs_broker
def test_hashes_are_those_of_mosquittos_own_program(tmp_path: Path) -> None:
    """The same password, salt and rounds give the line that mosquitto_passwd writes."""
    program = shutil.which("mosquitto_passwd")
    assert program is not None
    path = tmp_path / "passwords"
    subprocess.run([program, "-c", "-b", str(path), "kiosk", CHOSEN], check=True, timeout=30)
    line = path.read_text(encoding="utf-8").strip()
    _, kind, rounds, salt, _ = line.replace(":", "$").replace("$$", "$").split("$")
    assert kind == "7"

    assert line == f"kiosk:{password_hash(CHOSEN, base64.b64decode(salt), int(rounds))}"


def test_users_are_the_files_the_recorded_and_the_added_but_no_refused() -> None:
    """A refused device loses its login whoever names it; a generation changes the password."""
    records = {
        "node-one": record(DeviceStatus.APPROVED, 3),
        "node-two": record(DeviceStatus.REFUSED, 2),
        "node-wait": record(DeviceStatus.PENDING),
        "node-odd": record(DeviceStatus.QUARANTINED),
    }
    added = {name: Added(name, None) for name in ("node-new", "node-two")}
    found = own_nodes(("flat-1", "node-two", "X", "gateway"), records, added)
    assert found == {
        "flat-1": 1,
        "node-new": 1,
        "node-odd": 1,
        "node-one": 3,
        "node-wait": 1,
    }


def test_each_user_has_a_password_of_its_own_and_the_same_bytes_every_time() -> None:
    """Derived from the node key, so a provisioned node and the broker agree without a list."""
    other = added_user("kiosk", CHOSEN)
    first = password_file(KEY, {"kiosk": 1, "node-a": 1, "node-b": 2}, {"kiosk": other})
    assert first == password_file(KEY, {"kiosk": 1, "node-a": 1, "node-b": 2}, {"kiosk": other})
    lines = dict(line.split(":") for line in first.decode().splitlines())
    assert list(lines) == ["gateway", "kiosk", "node-a", "node-b"]
    assert lines["kiosk"] == other.hashed
    for name, password in (
        ("gateway", gateway_password(KEY)),
        ("node-a", mqtt_password(device_secret(KEY, "node-a", 1))),
        ("node-b", mqtt_password(device_secret(KEY, "node-b", 2))),
    ):
        _, kind, rounds, salt, _ = lines[name].split("$")
        assert kind == "7"

        assert lines[name] == password_hash(password, base64.b64decode(salt), int(rounds))
    assert len({line.split("$")[3] for line in lines.values()}) == 4
    again = dict(
        line.split(":") for line in password_file(KEY, {"node-b": 3}, {}).decode().splitlines()
    )
    assert again["node-b"] != lines["node-b"]


def test_added_users_are_kept_without_their_password() -> None:
    """Names and hashes come back as they were; a line of another form is refused."""
    users = {
        "kiosk": added_user("kiosk", CHOSEN),
        "node-new": added_user("node-new", None),
    }
    kept = show_added(users.values())
    assert CHOSEN.encode() not in kept
    assert parse_added(kept.decode()) == users
    for line in ("kiosk:plain", "Kiosk", "x:$7$1$a$b", ""):
        with pytest.raises(RefusedError):
            parse_added(line + "\n")


@pytest.mark.parametrize(
    ("name", "password"),
    [
        *((name, None) for name in ("gateway", "x", "a+b", "#", "Kiosk", "a b", "a:b")),
        ("kiosk", "short"),
        ("kiosk", "x" * 129),
    ],
)
def test_names_that_are_no_device_and_weak_passwords_are_refused(
    name: str, password: str | None
) -> None:
    """A name with a wildcard would be a topic of all; `gateway` is taken."""
    with pytest.raises(RefusedError) as raised:
        added_user(name, password)
    assert raised.value.refusal_code == "BROKER_USER"


# -- files -------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(site: BrokerSite) -> None:
    """Not a byte, and no file is written again."""
    first = site.write()
    assert {Path(name).name for name in first.changed} == {*FILES, "broker.password"}
    assert first.must_restart
    before = contents(site)
    assert set(before) == FILES
    assert site.write().changed == ()
    assert contents(site) == before


def test_only_what_changed_is_written(site: BrokerSite) -> None:
    """A device changes the users, a port the configuration, a name the certificate."""
    site.write()
    site.record("node-aaaaaaaaaaaa", DeviceStatus.PENDING)
    assert site.write().changed == ("passwords",)
    site.configure(names="palm.lan, 10.0.0.5")
    assert site.write().changed == ("server.key", "server.pem")
    site.configure(names="palm.lan, 10.0.0.5", more=", plain_port: 1883")
    made = site.write()
    assert made.changed == ("broker.conf",)
    assert made.must_restart
    assert site.write(lambda users: users.update({"kiosk": added_user("kiosk", CHOSEN)})).users == (
        "kiosk",
        "node-aaaaaaaaaaaa",
    )


def test_secrets_are_closed_and_stand_in_no_other_file(site: BrokerSite) -> None:
    """Keys and hashes are for the broker's group, the authority's key for root alone."""
    made = site.write()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in site.directory.iterdir()}
    assert modes == {
        "ca.key": 0o600,
        "passwords": 0o640,
        "acl": 0o640,
        "server.key": 0o640,
        "broker.conf": 0o644,
        "ca.pem": 0o644,
        "server.pem": 0o644,
    }
    assert stat.S_IMODE(made.password.stat().st_mode) == 0o600
    secret = made.password.read_bytes().strip()
    assert secret == gateway_password(site.key).encode()
    for content, _ in contents(site).values():
        assert secret not in content
        assert site.key.hex().encode() not in content
    (site.directory / "server.key").chmod(0o644)
    site.write()
    assert stat.S_IMODE((site.directory / "server.key").stat().st_mode) == 0o640


def test_what_is_missing_is_said(site: BrokerSite) -> None:
    """The section, the stores, a key that stands elsewhere."""
    path = site.place / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.partition("south:")[0], encoding="utf-8")
    assert refusal(site) == "BROKER_MISSING"
    path.write_text(text, encoding="utf-8")
    site.record("node-aaaaaaaaaaaa", DeviceStatus.APPROVED)
    assert refusal(site) == "BROKER_KEY"
    assert not site.directory.exists()
    shutil.rmtree(site.place / "state")
    with pytest.raises(StoreMissingError, match="init"):
        site.write()


def test_the_sections_ports_differ(site: BrokerSite) -> None:
    """One port cannot be with TLS and without."""
    site.configure(more=f", plain_port: {site.port}")
    with pytest.raises(ConfigurationError, match="with TLS already"):
        site.write()


# -- certificates ------------------------------------------------------------------------------


def test_the_certificate_is_what_a_small_client_understands(site: BrokerSite) -> None:
    """ECDSA on P-256, one authority without others below it, names and addresses told apart."""
    site.configure(names="palm.lan, 10.0.0.5")
    site.write()
    root, leaf = certificate(site, "ca.pem"), certificate(site, "server.pem")
    leaf.verify_directly_issued_by(root)
    for one in (root, leaf):
        public = one.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP256R1)
    assert root.subject == root.issuer == leaf.issuer
    assert root.subject.rfc4514_string() == "CN=prepaid-gateway nodes of palm"
    limits = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert limits.value == x509.BasicConstraints(ca=True, path_length=0)
    purpose = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purpose) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["palm.lan", "localhost"]
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["10.0.0.5", "127.0.0.1"]


def test_any_run_in_the_last_half_year_renews_and_the_authority_stays(site: BrokerSite) -> None:
    """Nodes go on trusting what they hold; before that time nothing changes."""
    clock = HandClock()
    first = site.write(clock=clock)
    root = (site.directory / "ca.pem").read_bytes()
    now = datetime.fromtimestamp(clock.wall_ms // 1_000, UTC)
    assert first.ends == now + timedelta(days=730)
    clock.pass_s(549 * DAY_S)
    assert site.write(clock=clock).changed == ()
    clock.pass_s(2 * DAY_S)
    second = site.write(clock=clock)
    assert second.changed == ("server.key", "server.pem")
    assert second.ends == now + timedelta(days=551 + 730)
    assert (site.directory / "ca.pem").read_bytes() == root
    assert certificate(site, "ca.pem").not_valid_after_utc > now + timedelta(days=9_000)


def test_the_last_certificate_ends_with_its_authority(site: BrokerSite) -> None:
    """It is not renewed again and again, and afterwards a person has to act."""
    clock = HandClock()
    site.write(clock=clock)
    clock.pass_s(24.8 * 365 * DAY_S)
    last = site.write(clock=clock)
    assert last.ends == certificate(site, "ca.pem").not_valid_after_utc
    clock.pass_s(DAY_S)
    assert site.write(clock=clock).changed == ()
    clock.pass_s(365 * DAY_S)
    assert refusal(site, clock) == "BROKER_CERTIFICATE"


def test_the_authoritys_key_may_be_kept_elsewhere(site: BrokerSite) -> None:
    """Nothing needs it until a certificate is due; then its absence is said and nothing is made."""
    clock = HandClock()
    site.write(clock=clock)
    (site.directory / "ca.key").rename(site.place / "ca.key")
    before = contents(site)
    assert site.write(clock=clock).changed == ()
    clock.pass_s(600 * DAY_S)
    assert refusal(site, clock) == "BROKER_CERTIFICATE"
    assert contents(site) == before
    (site.place / "ca.key").rename(site.directory / "ca.key")
    assert site.write(clock=clock).changed == ("server.key", "server.pem")


def test_a_pair_that_does_not_fit_is_made_anew_and_an_authority_never(site: BrokerSite) -> None:
    """A torn pair of the broker heals; the nodes' trust is not replaced behind their back."""
    site.write()
    (site.directory / "server.key").write_bytes((site.directory / "ca.key").read_bytes())
    assert site.write().changed == ("server.key", "server.pem")
    (site.directory / "server.pem").write_bytes(b"torn")
    assert site.write().changed == ("server.key", "server.pem")
    (site.directory / "ca.key").write_bytes((site.directory / "server.key").read_bytes())
    assert refusal(site) == "BROKER_CERTIFICATE"
    (site.directory / "ca.pem").write_bytes(b"torn")
    assert refusal(site) == "BROKER_CERTIFICATE"
    assert (site.directory / "ca.pem").read_bytes() == b"torn"


def test_a_given_certificate_is_used_where_it_stands(site: BrokerSite) -> None:
    """No authority is made, and the configuration names the given files."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (site.place / name).write_text("given", encoding="utf-8")
        (site.place / name).chmod(0o640)
    site.configure(more=", tls: {ca: ca.pem, cert: cert.pem, key: key.pem}")
    made = site.write()
    assert made.ends is None
    assert made.authority == site.place / "ca.pem"
    assert {path.name for path in site.directory.iterdir()} == {"acl", "broker.conf", "passwords"}
    text = (site.directory / "broker.conf").read_text(encoding="utf-8")
    assert f"certfile {site.place}/cert.pem\n" in text
    assert f"keyfile {site.place}/key.pem\n" in text


# -- the command -------------------------------------------------------------------------------


def command(site: BrokerSite, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and output of a `broker` command."""
    arguments = [*words, "-c", str(site.place / "config.yaml")]
    status = 0
    try:
        run(lambda: app(["broker", *arguments], standalone_mode=False))
    except SystemExit as ended:
        status = int(ended.code or 0)
    told = capsys.readouterr()
    return status, told.out + told.err


def test_the_command_says_what_to_do_next(
    site: BrokerSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """Restart, then nothing, then reload; and the gateway's side as long as it is missing."""
    place = str(site.directory)
    status, told = command(site, capsys, "write", place)
    assert status == 0
    assert "next: systemctl restart mosquitto" in told
    assert f"password_file: {site.place}/state/control/broker.password" in told
    section = told[told.index("  mqtt:") : told.index("}}") + 3]
    site.configure(below=section)
    status, told = command(site, capsys, "write", place)
    assert "changed: nothing" in told
    assert "systemctl" not in told
    assert "not configured yet" not in told
    status, told = command(site, capsys, "add-user", place, "node-new")
    assert (status, "systemctl reload mosquitto" in told) == (0, True)
    status, told = command(site, capsys, "write", place, "--json")
    assert json.loads(told) == {
        "changed": [],
        "users": ["node-new"],
        "certificate_ends": f"{certificate(site, 'server.pem').not_valid_after_utc:%Y-%m-%d}",
        "authority": f"{place}/ca.pem",
        "mosquitto": "none",
    }


def test_a_meter_has_no_login_beside_its_devices(site: BrokerSite) -> None:
    """Until a device is approved for it one may come that is called as the meter is."""
    nodes = "".join(f"  - {{id: kiosk-{number}, model: pzem-node}}\n" for number in (1, 2))
    site.configure(below=f"  mqtt: {{host: 127.0.0.1}}\nmeters:\n{nodes}")
    assert site.write().users == ("kiosk-1", "kiosk-2")
    site.record("node-new", DeviceStatus.APPROVED, meter_id="kiosk-1")
    site.record("node-old", DeviceStatus.REFUSED, meter_id="kiosk-2")
    assert site.write().users == ("kiosk-2", "node-new")


@pytest.mark.parametrize("order", ["add-user", "remove-user"])
def test_a_directory_without_a_broker_is_not_made_one(
    site: BrokerSite, capsys: pytest.CaptureFixture[str], order: str
) -> None:
    """Mistyped, it would get an authority of its own and a login that mosquitto never sees."""
    site.write()
    wrong = site.place / "brokr"
    status, told = command(site, capsys, order, str(wrong), "node-new")
    assert status == 1
    assert told == (
        f"BROKER_MISSING: {wrong} holds no broker: give the directory of `broker write`, "
        "or write it first\n"
    )
    assert not wrong.exists()


def test_a_node_of_others_is_added_and_removed(
    site: BrokerSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its password is read from a file and kept as a hash; removed, it is in no file."""
    place, secret = str(site.directory), site.place / "secret"
    secret.write_text(f"{CHOSEN}\n", encoding="utf-8")
    site.write()
    words = ("add-user", place, "kiosk", "--password-file", str(secret))
    assert command(site, capsys, *words)[0] == 0
    assert stat.S_IMODE((site.directory / "added").stat().st_mode) == 0o600
    for content, _ in contents(site).values():
        assert CHOSEN.encode() not in content
    assert b"kiosk:$7$10000$" in (site.directory / "passwords").read_bytes()
    assert command(site, capsys, "remove-user", place, "kiosk")[0] == 0
    assert b"kiosk" not in (site.directory / "passwords").read_bytes()
    assert b"kiosk" not in (site.directory / "added").read_bytes()
    status, told = command(site, capsys, "remove-user", place, "kiosk")
    assert (status, told.partition(":")[0]) == (1, "BROKER_USER")
    secret.unlink()
    assert command(site, capsys, *words)[1].startswith("FILE_REFUSED")
