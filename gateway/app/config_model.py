"""The configuration file as it is written: every key with its type, default and meaning.

The descriptions are the documentation: `config schema` and the table in docs/configuration.md are
made of them. Keys end in their unit where they have one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway.app.config_counter import CounterSection, VoucherSection
from gateway.app.config_place import quote
from gateway.app.config_section import FeederEntry, LimiterSection, Section, ShedSection, Watts
from gateway.app.config_site import SiteSection, currency_of
from gateway.app.config_south import ClientTls, SouthSection
from gateway.app.config_types import (
    Address,
    AnyModel,
    Channel,
    DeviceId,
    Directory,
    ExistingFile,
    Host,
    Identifier,
    OneLine,
    OptionalLine,
    Port,
    PrivateFile,
    RuntimeDirectory,
    TransformerRatio,
    is_loopback,
    split_listener,
)
from gateway.app.config_watch import WatchSection
from gateway.core.errors import RefusedError
from gateway.core.shedding import PRIORITY_DEFAULT, PRIORITY_MAX, PRIORITY_MIN
from gateway.core.switching import Reason
from gateway.core.voucher import unit_nano_of


class MeterSettings(Section):
    """How a meter of a model is polled, wired and switched."""

    port: Port = Field(default=502, description="Modbus TCP port.")
    unit: int = Field(default=1, ge=0, le=255, description="Modbus unit identifier.")
    poll_s: float = Field(default=1.0, ge=0.2, le=3_600, description="Period of the full read.")
    slow_poll_s: float = Field(
        default=300.0, ge=1, le=86_400, description="Period of the slow read (per-phase energy)."
    )
    timeout_s: float = Field(
        default=1.0, ge=0.05, le=60, description="Longest wait for a reply; the link is closed."
    )
    pipeline: int = Field(
        default=1, ge=1, le=3, description="Requests in flight; over 1 only after a probe."
    )
    p_max_w: int = Field(
        default=50_000,
        ge=1,
        le=10_000_000,
        description="Highest power that the point can draw: its breaker or current transformer. "
        "More energy than that is held for a person; a cut is predicted with it.",
    )
    starting_current_a: float = Field(
        default=0.05, ge=0, le=1_000, description="Smallest current that the transformer measures."
    )
    ct_ratio: TransformerRatio | None = Field(
        default=None,
        description="Current transformer as its plate says, such as 200/5: commissioning compares "
        "it with the meter's own setting. The meter alone multiplies by it.",
    )
    output: Channel = Field(default="0.0", description="Digital output that switches the supply.")
    output_on: Literal["connects", "disconnects"] = Field(
        default="connects", description="What the active output does to the supply."
    )
    contactor: Literal["downstream", "upstream"] = Field(
        default="downstream", description="Where the contactor sits, seen from the meter."
    )
    feedback: Channel | None = Field(
        default=None, description="Digital input that the contactor's auxiliary contact closes."
    )
    fail_safe: Literal["hold_last", "fail_connected", "fail_disconnected"] = Field(
        default="hold_last",
        description="Without the gateway the output keeps its last state, or falls off: "
        "fail_disconnected takes output_on: connects, fail_connected output_on: disconnects.",
    )
    fail_safe_after_s: int = Field(
        default=300,
        ge=10,
        le=18_000,
        description="How long without the gateway until the output falls off: the meter's remote "
        "timeout, set and proved by commissioning. Without effect with hold_last.",
    )
    confirm: Literal["arm", "auto"] = Field(
        default="arm", description="Whether a person confirms a reconnection (arm) or nobody."
    )
    t1_source: Identifier = Field(
        default="grid", description="Source counted by tariff register 1."
    )
    t2_source: Identifier = Field(
        default="generator", description="Source counted by tariff register 2."
    )
    export: Literal["ignored", "alarmed", "credited"] = Field(
        default="ignored",
        description="Energy that flows from the customer: left at the meter (ignored); none is "
        "expected and a day with more than `watch.export_day_wh` is told (alarmed); paid for at "
        "the feed-in price of the account's tariff (credited).",
    )
    limit_t1_w: Watts | None = Field(
        default=None, description="Load limit while register 1 counts (grid); none: no limit."
    )
    limit_t2_w: Watts | None = Field(
        default=None, description="Load limit while register 2 counts (generator)."
    )
    limit_emergency_w: Watts | None = Field(
        default=None, description="Load limit while emergency credit is in use, if lower."
    )

    def limits_w(self, sources: Sequence[str]) -> dict[str, int]:
        """Load limits by source, of those that have one."""
        both = zip(sources, (self.limit_t1_w, self.limit_t2_w), strict=False)
        return {source: limit_w for source, limit_w in both if limit_w is not None}


class MeterEntry(MeterSettings):
    """One meter. A setting that is not given comes from `defaults` of its model."""

    id: Identifier = Field(description="Name of the meter; never changes.")
    model: AnyModel = Field(
        description="Meter model: a file of gateway/south/models, or pzem-node."
    )
    host: Host | None = Field(
        default=None, description="Address of the meter; required unless it is a node."
    )
    serial_number: OneLine | None = Field(
        default=None,
        description="Serial number of the device; no other one is accepted at the address.",
    )
    device: DeviceId | None = Field(
        default=None,
        description="Device id of a node, which is approved by it; the meter's id unless given. A "
        "node whose device is not known yet takes the one that a person approves for it.",
    )
    label: OptionalLine = Field(default="", description="Text for people; may change.")
    feeder: Identifier = Field(
        default="main", description="Riser or feeder, within which reconnections are staggered."
    )
    service_point: Identifier | None = Field(
        default=None, description="Service point; the meter's id unless given."
    )
    account: Identifier | None = Field(
        default=None, description="Account of the point; the meter's id unless given."
    )
    role: Literal["supply", "check"] = Field(
        default="supply",
        description="What the meter is for: a customer's supply, or to check its `feeder`: then it "
        "charges nobody, is never switched, and is compared with the sum of the feeder's others.",
    )
    critical: bool = Field(default=False, description="Never cut for lack of credit, never shed.")
    priority: int = Field(
        default=PRIORITY_DEFAULT,
        ge=PRIORITY_MIN,
        le=PRIORITY_MAX,
        description="When load is shed the lowest goes first and comes back last.",
    )


class ServerTls(Section):
    """TLS of a listener; files relative to the configuration file."""

    cert: ExistingFile = Field(description="Certificate chain (PEM).")
    key: PrivateFile = Field(description="Private key (PEM), closed to other users.")


class HttpSection(Section):
    """The HTTP API."""

    # Before `listen`, whose check needs both.
    tls: ServerTls | None = Field(default=None, description="TLS of the listener.")
    behind_proxy: tuple[Address, ...] = Field(
        default=(),
        max_length=16,
        description="IP addresses of reverse proxies that end TLS and whose Forwarded headers are "
        "believed.",
    )
    listen: str = Field(
        default="127.0.0.1:8080",
        description="Address and port; beyond loopback only with `tls` or `behind_proxy`.",
    )

    @field_validator("listen")
    @classmethod
    def _protected(cls, listen: str, info: ValidationInfo) -> str:
        host, port = split_listener(listen)
        # A key that was refused itself is absent here: its own problem is enough.
        unprotected = info.data.get("tls", "") is None and info.data.get("behind_proxy") == ()
        if unprotected and not is_loopback(listen):
            raise ValueError(
                f"{quote(listen)} is reachable from the network without TLS: give "
                "north.http.tls, or name the reverse proxy in north.http.behind_proxy"
            )
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def host(self) -> str:
        """Address to listen on."""
        return split_listener(self.listen)[0]

    @property
    def port(self) -> int:
        """Port to listen on."""
        return split_listener(self.listen)[1]


class OpcUaSection(Section):
    """The OPC UA server."""

    endpoint: Annotated[str, Field(pattern=r"^opc\.tcp://[^\s/]+:[0-9]{1,5}(/\S*)?$")] = Field(
        default="opc.tcp://0.0.0.0:4840", description="URL of the endpoint."
    )
    users: Literal["store"] = Field(default="store", description="Where its users come from.")


class MqttDestination(Section):
    """One broker upstream."""

    name: Identifier = Field(description="Name of the destination; its cursor is kept under it.")
    host: Host = Field(description="Address of the broker.")
    port: Port = Field(default=1883, description="Port of the broker.")
    profile: Literal["json", "sparkplug", "thingsboard", "homeassistant"] = Field(
        default="json", description="Form of topics and payloads."
    )
    protocol: Literal["5", "3.1.1"] = Field(
        default="5", description="MQTT version; 3.1.1 cannot see a refused publish."
    )
    retain: Literal["ack", "puback"] = Field(
        default="puback", description="What lets data be forgotten: a consumer's commit or PUBACK."
    )
    group: OptionalLine = Field(default="", description="Sparkplug group; the site's id if empty.")
    username: OptionalLine = Field(default="", description="User name; empty for none.")
    password_file: PrivateFile | None = Field(
        default=None, description="File whose first line is the password."
    )
    tls: ClientTls | None = Field(default=None, description="TLS towards the broker; none: plain.")


class NorthSection(Section):
    """Everything that leaves the site."""

    http: HttpSection = Field(default=HttpSection(), description="The HTTP API.")
    opcua: OpcUaSection | None = Field(default=None, description="OPC UA server; none: off.")
    mqtt: tuple[MqttDestination, ...] = Field(
        default=(), max_length=16, description="Brokers upstream."
    )

    @field_validator("mqtt")
    @classmethod
    def _one_name_each(cls, given: tuple[MqttDestination, ...]) -> tuple[MqttDestination, ...]:
        names = [destination.name for destination in given]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two destinations are called {', '.join(map(quote, twice))}")
        return given


class MassCutSection(Section):
    """The breaker against mass cuts for lack of credit."""

    max_cuts: int = Field(default=10, ge=1, le=100_000, description="Cuts allowed in a window, …")
    max_percent: int = Field(
        default=5, ge=0, le=100, description="… or this share of the connected points if more."
    )
    window_s: int = Field(default=600, ge=1, le=86_400, description="Length of that window.")
    halt_percent: int = Field(
        default=25, ge=1, le=100, description="Share of connected points whose falling due halts."
    )
    halt_window_s: int = Field(
        default=60, ge=1, le=3_600, description="Time within which that share falls due."
    )
    halt_min_points: int = Field(
        default=4, ge=1, le=100_000, description="Fewer points than this never halt all cuts."
    )


class SupplySection(Section):
    """How supply is cut, proved and restored."""

    verify_s: float = Field(
        default=10.0, ge=1, le=300, description="Longest wait for the witnesses of a switching."
    )
    retries: int = Field(default=2, ge=0, le=10, description="Commands after an unproved one.")
    fault_retry_s: float = Field(
        default=900.0, ge=10, le=86_400, description="Pause after a switching that failed."
    )
    min_off_s: float = Field(
        default=60.0, ge=0, le=3_600, description="Shortest time between a cut and reconnection."
    )
    max_reading_age_s: float = Field(
        default=60.0, ge=1, le=3_600, description="Older readings never cut."
    )
    stagger_s: float = Field(
        default=0.5, ge=0, le=600, description="Time between two closings on one feeder."
    )
    reconnect_burst: int = Field(
        default=1, ge=1, le=1_000, description="Closings that may come at once after a quiet time."
    )
    reconnect_jitter_s: float = Field(
        default=0.5,
        ge=0,
        le=600,
        description="Up to so much longer between closings, by chance.",
    )
    inrush_percent: int = Field(
        default=30,
        ge=0,
        le=100,
        description="Share of a point's limit (or p_max_w) that a reconnection is expected to "
        "draw, where its load before is not known.",
    )
    generator_hold_s: float = Field(
        default=60.0,
        ge=0,
        le=3_600,
        description="No closing on a feeder for so long after its source became a generator.",
    )
    tamper: Literal["alarm", "cut"] = Field(
        default="alarm", description="What inferred tampering does beside the alarm."
    )
    limiter: LimiterSection = Field(default=LimiterSection(), description="Load limits.")
    shed: ShedSection = Field(default=ShedSection(), description="Load shedding.")
    mass_cut: MassCutSection = Field(default=MassCutSection(), description="The breaker.")

    @property
    def returns_by_itself(self) -> frozenset[Reason]:
        """Reasons after which nobody has to confirm."""
        chosen = {
            Reason.OVERLOAD: self.limiter.auto_restore,
            Reason.SHED: self.shed.auto_restore,
        }
        return frozenset(reason for reason, alone in chosen.items() if alone)


class PostingSection(Section):
    """How consumption becomes ledger entries. Rounds are at local half hours and at events."""

    sweep_s: float = Field(
        default=1.0, ge=0.2, le=60, description="Period of the commit of all register states."
    )
    gap_s: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="A longer time between readings that crosses a rate is flagged as estimated.",
    )


class TelemetrySection(Section):
    """Readings, intervals and events that are kept."""

    max_bytes: int = Field(
        default=20_000_000_000,
        ge=100_000_000,
        le=100_000_000_000_000,
        description="Size at which whole days, oldest first, are deleted (800 meters at 1 s write "
        "2 to 3 GB a day).",
    )
    retention_days: int = Field(
        default=30, ge=1, le=3_650, description="Days after which a day's file is deleted."
    )
    min_free_bytes: int = Field(
        default=500_000_000,
        ge=0,
        le=100_000_000_000_000,
        description="Free space below which readings are no longer kept, so that the ledger has it "
        "(of a small disk a tenth is enough).",
    )


class BackupSection(Section):
    """Where `prepaid-gateway backup` puts its files."""

    directory: Directory | None = Field(
        default=None,
        description="Directory on another disk or a share, for dated backups; `doctor` looks at "
        "their age. Relative to the configuration file.",
    )
    keep: int = Field(
        default=14, ge=1, le=10_000, description="So many dated backups are kept there."
    )


class ConfigurationFile(Section):
    """The YAML file of prepaid-gateway."""

    site: SiteSection = Field(description="Who and where the site is.")
    state_dir: Directory = Field(
        default=Path("/var/lib/prepaid-gateway"),
        description="Directory of the stores; relative to the configuration file.",
    )
    runtime_dir: RuntimeDirectory = Field(
        default=Path("/run/prepaid-gateway"),
        description="Directory of sockets and the live table; relative to the configuration file.",
    )
    create: bool = Field(
        default=False, description="Whether a start may create stores in an empty state_dir."
    )
    defaults: dict[AnyModel, MeterSettings] = Field(
        default={}, description="Settings by meter model, for meters that do not give their own."
    )
    meters: tuple[MeterEntry, ...] = Field(default=(), description="The meters.")
    meters_file: ExistingFile | None = Field(
        default=None,
        description="CSV with more meters, the same keys as columns; relative to the "
        "configuration file.",
    )
    feeders: tuple[FeederEntry, ...] = Field(
        default=(), max_length=1_000, description="Feeders with a limit of their own."
    )
    south: SouthSection = Field(default=SouthSection(), description="Meters that speak first.")
    north: NorthSection = Field(default=NorthSection(), description="What leaves the site.")
    supply: SupplySection = Field(default=SupplySection(), description="Cutting and restoring.")
    posting: PostingSection = Field(default=PostingSection(), description="Entries of consumption.")
    telemetry: TelemetrySection = Field(default=TelemetrySection(), description="What is kept.")
    backup: BackupSection = Field(default=BackupSection(), description="Backups.")
    counter: CounterSection = Field(default=CounterSection(), description="The cashiers' counter.")
    watch: WatchSection = Field(
        default=WatchSection(), description="Tampering, losses and transformers."
    )
    vouchers: VoucherSection = Field(default=VoucherSection(), description="Vouchers.")

    @field_validator("vouchers")
    @classmethod
    def _unit_fits(cls, given: VoucherSection, info: ValidationInfo) -> VoucherSection:
        site = info.data.get("site")
        if isinstance(site, SiteSection):
            try:
                unit_nano_of(given.voucher_unit, currency_of(site))
            except RefusedError as refused:
                raise ValueError(f"voucher_unit: {refused.message}") from refused
        return given

    @field_validator("feeders")
    @classmethod
    def _one_entry_each(cls, given: tuple[FeederEntry, ...]) -> tuple[FeederEntry, ...]:
        names = [feeder.id for feeder in given]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two entries for feeder {', '.join(map(quote, twice))}")
        return given


METER_COLUMNS: Final = tuple(MeterEntry.model_fields)
