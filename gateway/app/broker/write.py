"""Write the broker's directory: files are replaced only when their content changed."""

import grp
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.app.broker.certificates import Pair, authority_of, broker_of
from gateway.app.broker.mosquitto import access_list, configuration
from gateway.app.broker.users import (
    Added,
    gateway_password,
    own_nodes,
    parse_added,
    password_file,
    show_added,
)
from gateway.app.config import Config
from gateway.app.config_south import BrokerSection
from gateway.app.node_key import NODE_KEY_NAME, load_node_key
from gateway.app.paths import paths_of
from gateway.app.site_key import CREDENTIALS_VARIABLE, PRIVATE_MODE, write_whole
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreMissingError
from gateway.store.db import open_reader
from gateway.store.devices import DeviceRecord, DeviceStatus, read_devices
from gateway.store.ledger import LEDGER

CONFIGURATION: Final = "broker.conf"
PASSWORDS: Final = "passwords"
ACCESS: Final = "acl"
ADDED: Final = "added"
AUTHORITY: Final = "ca.pem"
AUTHORITY_KEY: Final = "ca.key"
CERTIFICATE: Final = "server.pem"
CERTIFICATE_KEY: Final = "server.key"
GATEWAY_PASSWORD: Final = "broker.password"  # noqa: S105 - a file name
# Debian's mosquitto runs as a user of this group.
GROUP: Final = "mosquitto"
PUBLIC_MODE: Final = 0o644
BROKER_MODE: Final = 0o640


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` did: names of files that changed, users by name, what the gateway needs."""

    changed: tuple[str, ...]
    users: tuple[str, ...]
    ends: datetime | None
    authority: Path
    password: Path
    readable_by_broker: bool

    @property
    def must_restart(self) -> bool:
        """Whether mosquitto has to be restarted: it reads ports and limits at its start only."""
        return CONFIGURATION in self.changed


Change = Callable[[dict[str, Added]], None]


def write(config: Config, directory: Path, clock: Clock, change: Change | None = None) -> Written:
    """Make `directory` what the site needs now; `change` alters the added users first.

    Raises RefusedError BROKER_MISSING, BROKER_CERTIFICATE, BROKER_USER, BROKER_KEY, FILE_REFUSED;
    StoreError, ConfigurationError.
    """
    broker = config.south.broker
    if broker is None:
        raise RefusedError(
            "BROKER_MISSING", f"{config.path}: give south.broker with the names of the broker"
        )
    directory = directory.absolute()
    if change is not None and not (directory / CONFIGURATION).exists():
        # A directory mistyped would get an authority of its own, which no node trusts.
        raise RefusedError(
            "BROKER_MISSING",
            f"{directory} holds no broker: give the directory of `broker write`, or write it first",
        )
    records = device_records(paths_of(config).ledger)
    key = _node_key(config, records)
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return _Writer(config, broker, directory).write(key, records, clock, change)
    except OSError as error:
        raise RefusedError("FILE_REFUSED", f"{error.filename}: {error.strerror}") from error


class _Writer:
    def __init__(self, config: Config, broker: BrokerSection, directory: Path) -> None:
        self._config = config
        self._broker = broker
        self._directory = directory
        self._control_dir = paths_of(config).control_dir
        self._group = _group()
        self._changed: list[str] = []

    def write(
        self,
        key: bytes,
        records: dict[str, DeviceRecord],
        clock: Clock,
        change: Change | None,
    ) -> Written:
        added = parse_added((self._read(ADDED) or b"").decode("utf-8", "replace"))
        if change is not None:
            change(added)
        nodes = own_nodes(_configured(self._config, records), records, added)
        ends, authority, cert, cert_key = self._certificates(clock)
        broker, where = self._broker, self._directory
        # The added users first: an interruption loses none of them.
        if added or self._read(ADDED) is not None:
            self._put(ADDED, show_added(added.values()), PRIVATE_MODE)
        self._put(PASSWORDS, password_file(key, nodes, added), BROKER_MODE)
        self._put(ACCESS, access_list(), BROKER_MODE)
        conf = configuration(where, broker.port, broker.plain_port, cert, cert_key)
        self._put(CONFIGURATION, conf, PUBLIC_MODE)
        password = self._give_gateway(gateway_password(key))
        return Written(
            tuple(self._changed),
            tuple(nodes),
            ends,
            authority,
            password,
            self._group is not None or os.geteuid() != 0,
        )

    def _certificates(self, clock: Clock) -> tuple[datetime | None, Path, Path, Path]:
        """When ours ends (None: another's), authority, certificate, key."""
        given = self._broker.tls
        if given is not None:
            return None, given.ca, given.cert, given.key
        now = datetime.fromtimestamp(clock.utc_ms() // 1_000, UTC)
        authority = authority_of(self._pair(AUTHORITY, AUTHORITY_KEY), self._config.site.id, now)
        if authority.key is not None:
            self._put(AUTHORITY_KEY, authority.key, PRIVATE_MODE)
        self._put(AUTHORITY, authority.certificate, PUBLIC_MODE)
        found = self._pair(CERTIFICATE, CERTIFICATE_KEY)
        pair = broker_of(found, authority, self._broker.names, now)
        # Between the two a start of mosquitto would fail, and the next run would make both anew.
        self._put(CERTIFICATE_KEY, pair.key or b"", BROKER_MODE)
        self._put(CERTIFICATE, pair.certificate, PUBLIC_MODE)
        where = self._directory
        return pair.ends, where / AUTHORITY, where / CERTIFICATE, where / CERTIFICATE_KEY

    def _pair(self, certificate: str, key: str) -> Pair | None:
        found = self._read(certificate)
        return None if found is None else Pair(found, self._read(key))

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def _put(self, name: str, content: bytes, mode: int) -> None:
        path = self._directory / name
        if self._read(name) != content:
            write_whole(path, content, mode)
            self._changed.append(name)
        path.chmod(mode)
        if self._group is not None:
            os.chown(path, 0, self._group if mode == BROKER_MODE else 0)

    def _give_gateway(self, password: str) -> Path:
        """The gateway's own password, a file of control's user alone."""
        path = self._control_dir / GATEWAY_PASSWORD
        content = f"{password}\n".encode()
        if not path.exists() or path.read_bytes() != content:
            write_whole(path, content, PRIVATE_MODE)
            self._changed.append(str(path))
        _hand_over(path)
        return path


def _group() -> int | None:
    """The broker's group, where files can be given to it."""
    if os.geteuid() != 0:
        return None
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def _hand_over(path: Path) -> None:
    """What root writes into control's directory is its owner's.

    Nothing that a link there leads to: control's user may have put one in its place meanwhile.
    """
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def device_records(ledger: Path) -> dict[str, DeviceRecord]:
    """Devices on record by id; none where there is no ledger yet. Raises StoreError."""
    if not ledger.exists():
        return {}
    connection = open_reader(ledger, LEDGER)
    try:
        return read_devices(connection)
    finally:
        connection.close()


def _configured(config: Config, records: dict[str, DeviceRecord]) -> list[str]:
    """Devices that the file names: a meter's own id only until a person approved another for it."""
    served = {
        record.meter_id for record in records.values() if record.status is DeviceStatus.APPROVED
    }
    return [
        node.device or node.meter_id
        for node in config.nodes
        if node.device or node.meter_id not in served
    ]


def _node_key(config: Config, records: dict[str, DeviceRecord]) -> bytes:
    """The site's node key; made where no node can have a secret of another one yet."""
    control_dir = paths_of(config).control_dir
    path = control_dir / NODE_KEY_NAME
    if not control_dir.is_dir():
        raise StoreMissingError(f"{control_dir} does not exist: run prepaid-gateway init first")
    there = path.exists() or CREDENTIALS_VARIABLE in os.environ
    if records and not there:
        raise RefusedError(
            "BROKER_KEY",
            f"devices are on record, and there is no {path}: if systemd hands the key over, run "
            "this with the credential node-key (docs/broker.md)",
        )
    key = load_node_key(control_dir)
    if not there:
        _hand_over(path)
    return key
