"""Nodes: their broker, its certificate and our login there, time for them, who came and who not."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.app.broker.mosquitto import NODE_HEARS
from gateway.app.broker.write import device_records
from gateway.app.config import Config
from gateway.app.config_south import SouthMqtt
from gateway.app.doctor.findings import Finding, Verdict, fine, named, warn, wrong
from gateway.app.doctor.mqtt_knock import NO_MQTT_5, REASONS, Visit, visit
from gateway.app.doctor.network import CERTIFICATE_DAYS
from gateway.app.doctor.stores import holder_of
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import GatewayError, StoreError
from gateway.south.nodes import TOPICS
from gateway.store.board import read_board
from gateway.store.db import LOCK_NAME
from gateway.store.devices import DeviceRecord, DeviceStatus

if TYPE_CHECKING:
    from cryptography import x509

AREA: Final = "nodes"
PROBES: Final = tuple(f"smartmeter/prepaid-doctor/{kind}" for kind in NODE_HEARS)
CONNECT_S: Final = 3.0
SILENT_MS: Final = 5 * 60_000
NTP_PORT: Final = 123
NTP_S: Final = 1.0
NTP_BYTES: Final = 48
NTP_OFF_S: Final = 60
_NTP_EPOCH_S: Final = 2_208_988_800  # from 1900 to 1970
_WRITE: Final = "Write it again: `prepaid-gateway broker write`, then reload mosquitto."
_EXPIRY_CODES: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED


def look_at_nodes(config: Config, clock: Clock) -> Iterator[Finding]:
    """Everything about nodes; nothing where the site has no broker for them."""
    mqtt = config.south.mqtt
    if mqtt is None:
        return
    yield from _broker(config, mqtt, clock)
    if config.south.broker is not None:
        yield _time_service(clock)
    try:
        records = device_records(paths_of(config).ledger)
    except GatewayError as error:
        yield warn(AREA, f"Devices on record were not read: {error}.", "Run this as root.")
        return
    yield from _devices(config, records, clock)


def _broker(config: Config, mqtt: SouthMqtt, clock: Clock) -> Iterator[Finding]:
    where = f"{mqtt.host}:{mqtt.port}"
    try:
        with _connected(mqtt):
            pass
    except OSError as error:
        yield wrong(
            AREA,
            f"The nodes' broker at {where} cannot be reached: {error}.",
            "Is it running (systemctl status mosquitto), does south.mqtt name its port?",
        )
        return
    if mqtt.tls is not None:
        found = list(_certificate(config, mqtt, clock))
        yield from found
        if any(finding.verdict is Verdict.PROBLEM for finding in found):
            return
    yield from _login(config, mqtt, clock, where)


@contextmanager
def _connected(mqtt: SouthMqtt) -> Iterator[socket.socket]:
    with socket.create_connection((mqtt.host, mqtt.port), CONNECT_S) as stream:
        yield stream


def _certificate(config: Config, mqtt: SouthMqtt, clock: Clock) -> Iterator[Finding]:
    """Dates and names first, whoever signed it; then whether we trust it."""
    from cryptography import x509  # noqa: PLC0415 - only where TLS is configured

    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(mqtt) as plain, blind.wrap_socket(plain) as stream:
            shown = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError) as error:
        yield wrong(AREA, f"The nodes' broker does no TLS: {error}.", "Look at south.mqtt.port.")
        return
    yield _dates(shown, clock)
    yield from _names(config, shown)
    ca = mqtt.tls.ca if mqtt.tls is not None else None
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        if mqtt.tls is not None and mqtt.tls.cert is not None:
            context.load_cert_chain(mqtt.tls.cert, mqtt.tls.key)
        with (
            _connected(mqtt) as plain,
            context.wrap_socket(plain, server_hostname=mqtt.host),
        ):
            yield fine(AREA, f"The broker's certificate is trusted by {ca or 'the system'}.")
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in _EXPIRY_CODES:
            yield wrong(
                AREA,
                f"The broker's certificate is not trusted: {error.verify_message}.",
                "south.mqtt.tls.ca has to be the ca.pem of the broker's directory, "
                "south.mqtt.host a name in its certificate; nodes have that same ca.pem.",
            )
    except OSError as error:
        yield wrong(AREA, f"TLS with the nodes' broker failed: {error}.", "Look at its log.")


def _dates(certificate: "x509.Certificate", clock: Clock) -> Finding:
    now = datetime.fromtimestamp(clock.utc_ms() / 1000, UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (end - now).days
    if end <= now:
        sentence = f"The broker's certificate expired on {end:%Y-%m-%d}: no node connects."
        return wrong(AREA, sentence, _WRITE)
    if begin > now:
        sentence = f"The broker's certificate begins on {begin:%Y-%m-%d}: this clock is behind."
        return wrong(AREA, sentence, "Set this machine's clock; start chrony.")
    if days < CERTIFICATE_DAYS:
        return warn(AREA, f"The broker's certificate expires in {days} days.", _WRITE)
    return fine(AREA, f"The broker's certificate is good for {days} more days.")


def _names(config: Config, certificate: "x509.Certificate") -> Iterator[Finding]:
    from cryptography import x509  # noqa: PLC0415

    if config.south.broker is None:
        return
    try:
        made_out = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        yield wrong(AREA, "The broker's certificate names no host: no node connects.", _WRITE)
        return
    has = {str(name.value).lower() for name in made_out}
    lacking = [name for name in config.south.broker.names if name.lower() not in has]
    if lacking:
        sentence = f"The broker's certificate is not made out to {named(lacking)}."
        yield wrong(AREA, sentence, _WRITE)
    else:
        names = named(list(config.south.broker.names))
        yield fine(AREA, f"The broker's certificate is made out to {names}.")


def _login(config: Config, mqtt: SouthMqtt, clock: Clock, where: str) -> Iterator[Finding]:
    """One connection per user: while control has its own, ours would end it."""
    user = mqtt.username or "nobody"
    if _control_is_in(config, clock):
        yield fine(AREA, f"Control is logged in at {where} as {user}; its login was not tried.")
        return
    try:
        password = None
        if mqtt.password_file is not None:
            text = mqtt.password_file.read_text(encoding="utf-8")
            password = text.partition("\n")[0].strip()
        answer = _visited(mqtt, password)
    except PermissionError as error:
        yield warn(AREA, f"{error.filename} cannot be read.", "Run this as root.")
    except (OSError, ValueError) as error:
        yield wrong(AREA, f"Nobody who speaks MQTT is at {where}: {error}.", "Look at its log.")
    else:
        yield from _judged(answer, user, where)


def _visited(mqtt: SouthMqtt, password: str | None) -> Visit:
    with _connected(mqtt) as plain:
        if mqtt.tls is None:
            return visit(plain, mqtt.username, password, TOPICS, PROBES)
        ca = mqtt.tls.ca
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        if mqtt.tls.cert is not None:
            context.load_cert_chain(mqtt.tls.cert, mqtt.tls.key)
        with context.wrap_socket(plain, server_hostname=mqtt.host) as stream:
            return visit(stream, mqtt.username, password, TOPICS, PROBES)


def _judged(answer: Visit, user: str, where: str) -> Iterator[Finding]:
    if answer.code in NO_MQTT_5:
        yield fine(AREA, f"The broker at {where} {REASONS[answer.code][3:]}: login not tried.")
        return
    if answer.code:
        reason = REASONS.get(answer.code, f"reason {answer.code:#x}")
        yield wrong(
            AREA,
            f"The broker at {where} does not let {user} in: {reason}.",
            "Look at south.mqtt.username and password_file; `prepaid-gateway broker write` makes "
            "both sides fit, then reload mosquitto.",
        )
        return
    for what, topics in (("hear", answer.deaf), ("send", answer.mute)):
        if topics:
            yield wrong(
                AREA,
                f"{user} may not {what} {', '.join(topics)}.",
                "Correct the broker's access list; `prepaid-gateway broker write` makes one.",
            )
    if not answer.deaf and not answer.mute:
        yield fine(AREA, f"{user} may log in at {where}, hear nodes and send to them.")


def _control_is_in(config: Config, clock: Clock) -> bool:
    """Whether control runs and has not lost the broker."""
    paths = paths_of(config)
    if not holder_of(paths.control_dir / LOCK_NAME):
        return False
    try:
        board = read_board(paths.live_dir)
    except StoreError:
        return False
    return not board.stale(clock.utc_ms()) and board.figures.get("node_broker_away") == 0.0


def _time_service(clock: Clock) -> Finding:
    """Whether this machine tells nodes the time (SNTP, RFC 4330), and the right one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(NTP_S)
        try:
            asker.connect(("127.0.0.1", NTP_PORT))
            asker.send(b"\x23" + bytes(47))
            answer = asker.recv(128)
        except OSError:
            answer = b""
    if len(answer) < NTP_BYTES:
        return fine(AREA, "This machine serves no time: boards with a CA need it from another one.")
    if not answer[1]:  # the stratum
        return wrong(
            AREA,
            "The time server of this machine does not know the time itself: nodes take none of it.",
            "Look with `chronyc tracking`; without the internet `local stratum 10` lets it answer.",
        )
    told_s = int.from_bytes(answer[40:44], "big") - _NTP_EPOCH_S
    if abs(told_s - clock.utc_ms() // 1000) > NTP_OFF_S:
        return wrong(
            AREA,
            "The time server of this machine tells another time than its clock.",
            "Look with `chronyc tracking`.",
        )
    return fine(AREA, "This machine serves the time to nodes.")


def _devices(config: Config, records: dict[str, DeviceRecord], clock: Clock) -> Iterator[Finding]:
    def having(status: DeviceStatus) -> list[str]:
        return [name for name, one in records.items() if one.status is status]

    if quarantined := having(DeviceStatus.QUARANTINED):
        yield wrong(
            AREA,
            f"In quarantine, heard no more: {named(quarantined)}.",
            "Two devices have one name: `prepaid-gateway device refuse`, provision it anew.",
        )
    if pending := having(DeviceStatus.PENDING):
        yield warn(
            AREA,
            f"Waiting to be approved: {named(pending)}.",
            "`prepaid-gateway device approve`, or `device refuse` what is not yours.",
        )
    serving = {one.meter_id: one for one in records.values() if one.status is DeviceStatus.APPROVED}
    lacking = [node.meter_id for node in config.nodes if node.meter_id not in serving]
    if lacking:
        yield warn(
            AREA,
            f"Never came: {named(lacking)}.",
            "Have they power, Wi-Fi and a login at the broker? See `device list`.",
        )
    runs = holder_of(paths_of(config).control_dir / LOCK_NAME) != 0
    silent = [
        node.meter_id
        for node in config.nodes
        if (one := serving.get(node.meter_id)) is not None and _is_silent(one, clock)
    ]
    if silent and runs:
        yield warn(
            AREA,
            f"Approved and silent: {named(silent)}.",
            "Look at power and Wi-Fi there; `prepaid-gateway device show DEVICE` has the last.",
        )
    heard = len(config.nodes) - len(lacking) - len(silent)
    if config.nodes and runs and heard:
        yield fine(AREA, f"{heard} of {len(config.nodes)} nodes are heard.")


def _is_silent(record: DeviceRecord, clock: Clock) -> bool:
    late = clock.utc_ms() - record.seen_utc_ms > SILENT_MS
    return late or record.state.get("online") is not True
