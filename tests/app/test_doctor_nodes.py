"""`doctor` at the nodes' broker, a real mosquitto; and what it says of nodes and their time."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.app.broker.certificates import authority_of
from gateway.app.clock import SystemClock
from gateway.app.doctor import nodes
from gateway.app.doctor.findings import Finding, Verdict
from gateway.app.doctor.mqtt_knock import Visit, visit
from gateway.app.doctor.nodes import look_at_nodes
from gateway.store.devices import DeviceStatus
from tests.app.broker_site import BrokerSite, free_port, open_directory
from tests.app.control_site import HandClock
from tests.south.mosquitto import Mosquitto, needs_broker

DAY_S = 86_400
NODES = "meters:\n  - {id: kiosk-1, model: pzem-node}\n  - {id: kiosk-2, model: pzem-node}\n"


class At(HandClock):
    """Now, so many days from today."""

    def __init__(self, days: float = 0.0) -> None:
        super().__init__()
        self.wall_ms = SystemClock().utc_ms() + round(days * DAY_S * 1000)


def configured(site: BrokerSite, *, names: str = "palm.lan", more: str = "", ca: str = "") -> None:
    """The gateway's side as `broker write` tells it."""
    password = site.config.state_dir / "control" / "broker.password"
    authority = ca or str(site.directory / "ca.pem")
    site.configure(
        names=names,
        below=f"  mqtt: {{host: 127.0.0.1, port: {site.port}, username: gateway, "
        f"password_file: {password}, tls: {{ca: {authority}}}}}\n{more}",
    )


@pytest.fixture
async def site() -> AsyncIterator[BrokerSite]:
    """A site whose broker is written; `start` it."""
    with open_directory() as place:
        made = BrokerSite(place)
        made.write()
        configured(made)
        try:
            yield made
        finally:
            await made.stop()


def said(site: BrokerSite, verdict: Verdict, clock: HandClock | None = None) -> list[str]:
    """Sentences of a verdict; whoever warns says what to do."""
    found = list(look_at_nodes(site.config, clock or At()))
    assert all(finding.area == "nodes" for finding in found)
    assert all(bool(f.next_step) == (f.verdict is not Verdict.OK) for f in found)
    return [finding.sentence for finding in found if finding.verdict is verdict]


@pytest.mark.slow
@needs_broker
async def test_a_broker_in_order(site: BrokerSite) -> None:
    """Dates, names, trust, login and rights, each in a sentence; nobody is thrown out."""
    await site.start()
    assert said(site, Verdict.PROBLEM) == []
    assert said(site, Verdict.WARNING) == []
    good = said(site, Verdict.OK)
    assert "The broker's certificate is good for 729 more days." in good
    assert "The broker's certificate is made out to palm.lan." in good
    assert f"The broker's certificate is trusted by {site.directory / 'ca.pem'}." in good
    where = f"127.0.0.1:{site.port}"
    assert f"gateway may log in at {where}, hear nodes and send to them." in good


@pytest.mark.slow
@needs_broker
async def test_a_wrong_password_is_told_apart(site: BrokerSite) -> None:
    """The certificate is good, the login is not."""
    await site.start()
    (site.config.state_dir / "control" / "broker.password").write_text("0" * 32 + "\n")
    (told,) = said(site, Verdict.PROBLEM)
    assert told.endswith(
        f"at 127.0.0.1:{site.port} does not let gateway in: not authorised (its password?)."
    )
    assert any("is trusted by" in line for line in said(site, Verdict.OK))


@pytest.mark.slow
@needs_broker
async def test_a_right_that_the_access_list_lacks_is_named(site: BrokerSite) -> None:
    """Commands would be dropped without a word; mosquitto tells it to who speaks MQTT 5."""
    acl = site.directory / "acl"
    acl.write_text(acl.read_text().replace("topic write smartmeter/+/command\n", ""))
    await site.start()
    (told,) = said(site, Verdict.PROBLEM)
    assert told == "gateway may not send smartmeter/prepaid-doctor/command."


@pytest.mark.slow
@needs_broker
async def test_an_expired_certificate(site: BrokerSite) -> None:
    """Named with its day, told once, and the login is not tried."""
    site.configure()
    for name in ("server.pem", "server.key", "ca.pem", "ca.key"):
        (site.directory / name).unlink()
    site.write(clock=At(-1_000))
    configured(site)
    await site.start()
    day = datetime.now(UTC) - timedelta(days=1_000 - 730)
    assert said(site, Verdict.PROBLEM) == [
        f"The broker's certificate expired on {day:%Y-%m-%d}: no node connects."
    ]


@pytest.mark.slow
@needs_broker
async def test_the_days_before_a_certificate_ends(site: BrokerSite) -> None:
    """A month before; and a clock that is behind."""
    await site.start()
    assert said(site, Verdict.WARNING, At(710)) == ["The broker's certificate expires in 19 days."]
    (told,) = said(site, Verdict.PROBLEM, At(-30))
    assert told.endswith(": this clock is behind.")


@pytest.mark.slow
@needs_broker
async def test_another_authority_is_not_trusted(site: BrokerSite) -> None:
    """The wrong ca.pem, as after a broker that was begun anew."""
    await site.start()
    other = site.place / "other.pem"
    other.write_bytes(authority_of(None, "other", datetime.now(UTC)).certificate)
    configured(site, ca=str(other))
    (told,) = said(site, Verdict.PROBLEM)
    assert told.startswith("The broker's certificate is not trusted: ")
    assert not any("may log in" in line for line in said(site, Verdict.OK))


@pytest.mark.slow
@needs_broker
async def test_names_that_the_certificate_lacks(site: BrokerSite) -> None:
    """Nodes reach the broker by a name that was added since."""
    await site.start()
    configured(site, names="palm.lan, market.lan, 10.9.8.7")
    assert said(site, Verdict.PROBLEM) == [
        "The broker's certificate is not made out to market.lan, 10.9.8.7."
    ]


@pytest.mark.slow
@needs_broker
async def test_no_tls_where_tls_is_configured(site: BrokerSite, tmp_path: Path) -> None:
    """And nobody at all."""
    (told,) = said(site, Verdict.PROBLEM)
    assert "cannot be reached: [Errno 111] Connection refused." in told
    plain = Mosquitto(tmp_path)
    await plain.start()
    try:
        site.port = plain.port
        configured(site)
        assert said(site, Verdict.PROBLEM)[0].startswith("The nodes' broker does no TLS: ")
    finally:
        await plain.kill()


def test_who_never_came_who_waits_and_who_is_shut_out() -> None:
    """From the records alone, whatever the broker does."""
    with open_directory() as place:
        site = BrokerSite(place)
        site.write()
        configured(site, more=NODES)
        site.record("node-1", DeviceStatus.PENDING)
        site.record("node-2", DeviceStatus.QUARANTINED)
        assert "In quarantine, heard no more: node-2." in said(site, Verdict.PROBLEM)
        warnings = said(site, Verdict.WARNING)
        assert warnings == ["Waiting to be approved: node-1.", "Never came: kiosk-1, kiosk-2."]


def test_a_site_without_nodes_hears_nothing_of_them() -> None:
    """No broker, no sentence."""
    with open_directory() as place:
        assert list(look_at_nodes(BrokerSite(place).config, At())) == []


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A broker of a few words: sends each answer after whatever it heard; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                for answer in answers:
                    link.recv(4_096)
                    link.sendall(answer)
                link.recv(4_096)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(5)


def visited(port: int) -> object:
    """A visit at a port."""
    with socket.create_connection(("127.0.0.1", port), 2) as stream:
        return visit(stream, "u", "p", ("a/+", "b"), ("c", "d"))


def test_a_broker_that_refuses_some_topics() -> None:
    """Reason codes of SUBACK and PUBACK, with kept messages between them."""
    kept = b"\x30\x06\x00\x01x\x00hi"
    with answering(
        b"\x20\x03\x00\x00\x00",
        kept + b"\x90\x05\x00\x01\x00\x01\x87",
        kept + b"\x40\x02\x00\x02",
        b"\x40\x04\x00\x03\x87\x00",
    ) as port:
        assert visited(port) == Visit(0, ("b",), ("d",))
    with answering(b"\x20\x02\x00\x01") as port:
        assert visited(port) == Visit(0x01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xff\xff\xff\xff", b"\xd0\x00"]
)
def test_what_speaks_no_mqtt_is_said(answer: bytes) -> None:
    """Never an endless wait or an error of another kind."""
    with answering(answer) as port, pytest.raises((ValueError, OSError)):
        visited(port)


@contextmanager
def time_server(
    monkeypatch: pytest.MonkeyPatch, seconds: int | None, stratum: int
) -> Iterator[None]:
    """A time server of this machine that tells so many seconds since 1970; None: none."""
    with monkeypatch.context() as here:
        if seconds is None:
            here.setattr(nodes, "NTP_PORT", free_port())
            yield
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            here.setattr(nodes, "NTP_PORT", server.getsockname()[1])

            def serve() -> None:
                asked, whom = server.recvfrom(128)
                assert len(asked) == 48
                told = (seconds + 2_208_988_800).to_bytes(4, "big")
                server.sendto(bytes((0x24, stratum)) + bytes(38) + told + bytes(4), whom)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            yield
            thread.join(5)


def test_whether_this_machine_serves_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right one, another one, one that knows none itself, none."""

    def told(seconds: int | None, stratum: int = 3) -> Finding:
        with time_server(monkeypatch, seconds, stratum):
            return nodes._time_service(At())

    now_s = SystemClock().utc_ms() // 1000
    assert told(now_s).sentence == "This machine serves the time to nodes."
    assert told(now_s - 3_600).verdict is Verdict.PROBLEM
    lost = told(now_s, 0)
    assert (lost.verdict, "does not know the time itself" in lost.sentence) == (
        Verdict.PROBLEM,
        True,
    )
    none = told(None)
    assert (none.verdict, "serves no time" in none.sentence) == (Verdict.OK, True)
