"""The configuration in force: YAML and CSV read, every problem found at once, defaults resolved."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from gateway.app.config_counter import CounterSection, VoucherSection
from gateway.app.config_csv import Row, read_table
from gateway.app.config_model import (
    METER_COLUMNS,
    BackupSection,
    ConfigurationFile,
    MeterEntry,
    MeterSettings,
    NorthSection,
    PostingSection,
    SupplySection,
    TelemetrySection,
)
from gateway.app.config_place import (
    FileRefusedError,
    Place,
    Problem,
    Step,
    quote,
    refuse,
    show_path,
)
from gateway.app.config_problems import Finder, problems_of
from gateway.app.config_section import FeederEntry
from gateway.app.config_site import SiteSection
from gateway.app.config_south import SouthSection
from gateway.app.config_types import may_be_file
from gateway.app.config_watch import WatchSection
from gateway.app.config_yaml import Document, as_text, read_document
from gateway.core.shedding import PRIORITY_DEFAULT
from gateway.south.metering import NODE_MODEL
from gateway.south.models import meter_model, model_names

# The output falls off without the gateway: what it does to the supply while on is the contrary.
FAIL_SAFE_WIRING: Final = {"fail_disconnected": "connects", "fail_connected": "disconnects"}
# The command is repeated with polls, three times within the time: each third has two of them.
FAIL_SAFE_POLLS: Final = 6
_FAIL_SAFE_KEYS: Final = ("fail_safe", "output_on", "output", "fail_safe_after_s", "poll_s")
_SETTINGS: Final = frozenset(MeterSettings.model_fields)
_BUILT_IN: Final = MeterSettings()
# A 100 A transformer at 230 V; telemetry comes every ten seconds and whenever something changes.
_NODE_BUILT_IN: Final = MeterSettings(p_max_w=23_000, poll_s=10.0)
NODE_SETTINGS: Final = frozenset(
    {"p_max_w", "starting_current_a", "confirm", "t1_source", "limit_t1_w", "limit_emergency_w"}
)
_NOT_OF_NODES: Final = _SETTINGS - NODE_SETTINGS


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """One Modbus meter with its defaults resolved. `place` is where the file names it."""

    meter_id: str
    model: str
    host: str
    label: str
    feeder: str
    service_point_id: str
    account_id: str
    critical: bool
    settings: MeterSettings
    place: Place = field(compare=False)
    serial_number: str | None = None
    role: str = "supply"
    priority: int = PRIORITY_DEFAULT


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One ESP32 node with its defaults resolved. `place` is where the file names it.

    `device` is the device id that the file gives; empty where a person approves one for it (its
    own id is taken without asking).
    """

    meter_id: str
    model: str
    label: str
    feeder: str
    service_point_id: str
    account_id: str
    critical: bool
    settings: MeterSettings
    place: Place = field(compare=False)
    device: str = ""
    role: str = "supply"
    priority: int = PRIORITY_DEFAULT


PointConfig = MeterConfig | NodeConfig


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says, checked and immutable. Paths are absolute.

    `meters` are in the order of YAML, then CSV. `notes` name what is accepted without being
    served by this version.
    """

    path: Path
    site: SiteSection
    state_dir: Path
    runtime_dir: Path
    create: bool
    defaults: Mapping[str, MeterSettings]
    meters: tuple[MeterConfig, ...]
    nodes: tuple[NodeConfig, ...]
    south: SouthSection
    north: NorthSection
    supply: SupplySection
    posting: PostingSection
    telemetry: TelemetrySection
    backup: BackupSection
    counter: CounterSection
    watch: WatchSection
    vouchers: VoucherSection
    notes: tuple[str, ...] = ()
    meters_file: Path | None = None
    feeders: tuple[FeederEntry, ...] = ()

    @property
    def points(self) -> tuple[PointConfig, ...]:
        """Everything that is metered, in the order of control: meters, then nodes."""
        return (*self.meters, *self.nodes)


def load_config(path: Path, *, meters_file: Path | None = None) -> Config:
    """Read a configuration file and the CSV that it names, or `meters_file` in its place.

    Raises ConfigurationError with every problem of both as `file:line:column: path: message`.
    Files are named in problems as `path` is given, the CSV as the YAML file names it.
    """
    document = read_document(path)
    base = path.resolve().parent
    reading = _Reading(document, base, meters_file)
    content = reading.file()
    entries = list(reading.entries())
    reading.check_unique(entries)
    reading.check_feeders(content, entries)
    reading.check_broker(content, entries)
    if reading.problems or content is None:
        raise refuse(reading.problems)
    meters: list[MeterConfig] = []
    nodes: list[NodeConfig] = []
    for entry in entries:
        if entry.fields is None:
            continue  # refused above: not reached
        if entry.is_modbus:
            meters.append(_meter(entry.fields, entry.place("id"), content.defaults))
        else:
            nodes.append(_node(entry.fields, entry.place("id"), content.defaults))
    return Config(
        path=path.resolve(),
        site=content.site,
        state_dir=content.state_dir,
        runtime_dir=content.runtime_dir,
        create=content.create,
        defaults=content.defaults,
        meters=tuple(meters),
        nodes=tuple(nodes),
        south=content.south,
        north=content.north,
        supply=content.supply,
        posting=content.posting,
        telemetry=content.telemetry,
        backup=content.backup,
        counter=content.counter,
        vouchers=content.vouchers,
        notes=tuple(_notes(content)),
        meters_file=content.meters_file,
        watch=content.watch,
        feeders=content.feeders,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """A meter as read, before its defaults; `fields` is None where it was refused."""

    given: Mapping[str, object]
    fields: MeterEntry | None
    steps: tuple[Step, ...]
    finder: Finder

    @property
    def is_modbus(self) -> bool:
        """Whether this is a meter that is polled, not a node."""
        return self.fields is not None and self.fields.model != NODE_MODEL

    def text(self, key: str) -> str | None:
        """A key as the person wrote it, whatever the rest of the entry is worth."""
        given = self.given.get(key)
        return given if isinstance(given, str) else None

    def place(self, key: str) -> Place:
        """Where the value of a key stands."""
        return self.finder.value((*self.steps, key))

    def problem(self, key: str, message: str) -> Problem:
        """A problem with the value of a key."""
        return Problem(self.place(key), show_path((*self.steps, key)), message)


class _Reading:
    """One pass over a document, collecting problems instead of stopping at the first."""

    def __init__(self, document: Document, base: Path, meters_file: Path | None) -> None:
        self.problems: list[Problem] = list(document.problems)
        self._document = document
        self._base = base
        self._meters_file = meters_file
        self._content = as_text(document.root)
        self._finder = Finder(document.place, document.key_place)
        self._defaults: Mapping[str, MeterSettings] = {}

    def file(self) -> ConfigurationFile | None:
        """The file without its meters, which `entries` reads one by one; None when refused."""
        content = self._content
        if isinstance(content, dict) and isinstance(content.get("meters"), list | None):
            content = {key: value for key, value in content.items() if key != "meters"}
            if self._meters_file is not None:
                content.pop("meters_file", None)
        read: ConfigurationFile | None = None
        try:
            read = ConfigurationFile.model_validate(content, context={"base": self._base})
        except ValidationError as error:
            self.problems += problems_of(error, ConfigurationFile, self._finder)
        self._defaults = read.defaults if read is not None else _usable_defaults(content)
        for model, settings in self._defaults.items():
            given = settings.model_fields_set
            wrong = (
                *_wiring_problems(model, settings),
                *_fail_safe_problems(model, settings, given),
            )
            for key, message in wrong:
                self.problems.append(self._document.problem(("defaults", model, key), message))
        return read

    def entries(self) -> Iterator[_Entry]:
        """Every meter of the YAML file, then of the CSV, refused ones included."""
        content = self._content if isinstance(self._content, dict) else {}
        listed = content.get("meters")
        for index, given in enumerate(listed if isinstance(listed, list) else []):
            yield self._entry(given, ("meters", index), self._finder)
        named = content.get("meters_file") if self._meters_file is None else str(self._meters_file)
        # A path that a person gave starts where that person stands.
        base = self._base if self._meters_file is None else Path()
        if not isinstance(named, str) or not may_be_file(base / named):
            return  # absent, or already a problem of `meters_file` itself
        try:
            table = read_table(base / named, METER_COLUMNS, named)
        except FileRefusedError as error:
            self.problems += error.found
            return
        self.problems += table.problems
        for row in table.rows:
            yield self._row(row)

    def check_unique(self, entries: Iterable[_Entry]) -> None:
        """What names one thing may stand once, in both files together."""
        claims: dict[tuple[str, str, int, int], tuple[_Entry, str]] = {}
        for entry in entries:
            for kind, value, key in self._claims(entry):
                first, first_key = claims.setdefault((kind, *value), (entry, key))
                # Two equal ids imply two equal points and accounts: said once.
                implied = key == first_key == "id" and kind != "id"
                if first is not entry and not implied:
                    name, port, unit = value
                    what = f"{name}:{port} unit {unit}" if kind == "meter at" else quote(name)
                    message = f"the {kind} {what} stands twice, first at {first.place(first_key)}"
                    self.problems.append(entry.problem(key, message))

    def check_feeders(self, content: ConfigurationFile | None, entries: Iterable[_Entry]) -> None:
        """A feeder that has a limit has meters too: a slip in its name would go unnoticed."""
        used = {entry.fields.feeder for entry in entries if entry.fields is not None}
        for index, feeder in enumerate(content.feeders if content is not None else ()):
            if feeder.id not in used:
                message = f"no meter is on feeder {quote(feeder.id)}"
                self.problems.append(self._document.problem(("feeders", index, "id"), message))

    def check_broker(self, content: ConfigurationFile | None, entries: Iterable[_Entry]) -> None:
        """Nodes are heard over a broker."""
        if content is None or content.south.mqtt is not None:
            return
        for entry in entries:
            if entry.fields is not None and not entry.is_modbus:
                message = f"a {NODE_MODEL} is heard over a broker: give south.mqtt"
                self.problems.append(entry.problem("model", message))

    def _claims(self, entry: _Entry) -> Iterator[tuple[str, tuple[str, int, int], str]]:
        """What an entry takes for itself, as (kind, value, key that says so)."""
        name = entry.text("id")
        if name:
            yield "id", (name, 0, 0), "id"
        for key, kind in (("service_point", "service point"), ("account", "account")):
            given = entry.text(key)
            taken = given or name
            if taken:
                yield kind, (taken, 0, 0), key if given else "id"
        fields = entry.fields
        if fields is not None and not entry.is_modbus:
            yield "device", (fields.device or fields.id, 0, 0), "device" if fields.device else "id"
        if fields is not None and fields.host is not None and entry.is_modbus:
            settings = _resolve(fields, self._defaults)
            yield "meter at", (fields.host, settings.port, settings.unit), "host"
            if fields.serial_number is not None:
                yield "serial number", (fields.serial_number, 0, 0), "serial_number"

    def _row(self, row: Row) -> _Entry:
        finder = Finder(lambda steps: row.place(str(steps[-1])), lambda _: row.place("id"))
        return self._entry(row.cells, (), finder)

    def _entry(self, given: object, steps: tuple[Step, ...], finder: Finder) -> _Entry:
        try:
            fields: MeterEntry | None = MeterEntry.model_validate(given)
        except ValidationError as error:
            self.problems += problems_of(error, MeterEntry, finder, steps)
            fields = _salvage(MeterEntry, given, error)
        entry = _Entry(given if isinstance(given, Mapping) else {}, fields, steps, finder)
        if fields is not None and fields.model == NODE_MODEL:
            foreign = fields.model_fields_set & (_NOT_OF_NODES | {"host", "serial_number", "role"})
            for key in sorted(foreign):
                self.problems.append(entry.problem(key, f"a {NODE_MODEL} has no such key"))
        elif fields is not None:
            if fields.device is not None:
                self.problems.append(entry.problem("device", "only a node has a device id"))
            if entry.given.get("host") is None:
                self.problems.append(entry.problem("host", "is missing: address of the meter"))
            settings = _resolve(fields, self._defaults)
            wrong = (
                *_wiring_problems(fields.model, fields),
                *_fail_safe_problems(fields.model, settings, fields.model_fields_set),
            )
            for key, message in wrong:
                self.problems.append(entry.problem(key, message))
        return entry


_Part = TypeVar("_Part", MeterEntry, MeterSettings)


def _salvage(section: type[_Part], given: object, error: ValidationError) -> _Part | None:
    """A refused section without its wrong keys, so that what is left is checked in the same run.

    None when the section is no map, or means nothing without a key that is wrong or missing.
    """
    wrong = {found["loc"][0] for found in error.errors() if found["loc"]}
    if not isinstance(given, Mapping) or not wrong:
        return None
    try:
        return section.model_validate({k: v for k, v in given.items() if k not in wrong})
    except ValidationError:
        return None


def _usable_defaults(content: object) -> dict[str, MeterSettings]:
    """The defaults of a refused file as far as they hold."""
    given = content.get("defaults") if isinstance(content, dict) else None
    usable: dict[str, MeterSettings] = {}
    for model, settings in given.items() if isinstance(given, dict) else ():
        if model not in (*model_names(), NODE_MODEL):
            continue
        try:
            found: MeterSettings | None = MeterSettings.model_validate(settings)
        except ValidationError as error:
            found = _salvage(MeterSettings, settings, error)
        if found is not None:
            usable[model] = found
    return usable


def _wiring_problems(model: str, settings: MeterSettings) -> Iterator[tuple[str, str]]:
    """Keys given in `settings` that name a digital channel the model does not have."""
    given = settings.model_fields_set
    if model == NODE_MODEL:
        for key in sorted(given & _NOT_OF_NODES):
            yield key, f"a {NODE_MODEL} has no such key"
        return
    declared = meter_model(model)
    outputs = [channel.label for channel in declared.outputs.channels]
    inputs = [channel.label for channel in declared.inputs]
    if "output" in given and settings.output not in outputs:
        yield "output", f"a {model} has no output {settings.output}: {', '.join(outputs)}"
    if "feedback" in given and settings.feedback not in (None, *inputs):
        yield "feedback", f"a {model} has no input {settings.feedback}: {', '.join(inputs)}"


def _fail_safe_problems(
    model: str, settings: MeterSettings, given: AbstractSet[str]
) -> Iterator[tuple[str, str]]:
    """A reaction to the gateway's absence that this wiring, model or polling cannot have.

    `settings` are resolved; what none of the keys `given` here decides is told where it stands.
    """
    policy, own = settings.fail_safe, [key for key in _FAIL_SAFE_KEYS if key in given]
    if policy == "hold_last" or not own or model == NODE_MODEL:
        return
    wanted, after_s = FAIL_SAFE_WIRING[policy], settings.fail_safe_after_s
    if settings.output_on != wanted:
        message = (
            f"{policy} needs output_on: {wanted}, for the output falls off without the gateway; "
            f"the active output {settings.output_on} here: wire it so, or set fail_safe: hold_last"
        )
        yield own[0], message
    for channel in meter_model(model).outputs.channels:
        if channel.label == settings.output and channel.remote_timeout_address is None:
            message = (
                f"output {channel.label} of a {model} has no remote timeout that {policy} could "
                "use: set fail_safe: hold_last"
            )
            yield own[0], message
    if settings.poll_s > after_s / FAIL_SAFE_POLLS:
        message = (
            f"the output is held with polls: for fail_safe_after_s: {after_s} poll_s may be "
            f"{after_s / FAIL_SAFE_POLLS:.1f} at most, and is {settings.poll_s:g}"
        )
        key = next(name for name in ("fail_safe_after_s", "poll_s", *own) if name in given)
        yield key, message


def _resolve(entry: MeterEntry, defaults: Mapping[str, MeterSettings]) -> MeterSettings:
    """The settings of one meter: its own where given, else its model's, else the built-in ones."""
    common = defaults.get(entry.model) or _BUILT_IN
    if entry.model == NODE_MODEL:
        given = {key: getattr(common, key) for key in common.model_fields_set & NODE_SETTINGS}
        common = _NODE_BUILT_IN.model_copy(update=given)
    own = {key: getattr(entry, key) for key in entry.model_fields_set & _SETTINGS}
    return common.model_copy(update=own) if own else common


def _meter(entry: MeterEntry, place: Place, defaults: Mapping[str, MeterSettings]) -> MeterConfig:
    return MeterConfig(
        meter_id=entry.id,
        model=entry.model,
        host=entry.host or "",
        label=entry.label,
        feeder=entry.feeder,
        service_point_id=entry.service_point or entry.id,
        account_id=entry.account or entry.id,
        critical=entry.critical,
        settings=_resolve(entry, defaults),
        place=place,
        serial_number=entry.serial_number,
        role=entry.role,
        priority=entry.priority,
    )


def _node(entry: MeterEntry, place: Place, defaults: Mapping[str, MeterSettings]) -> NodeConfig:
    return NodeConfig(
        meter_id=entry.id,
        model=entry.model,
        label=entry.label,
        feeder=entry.feeder,
        service_point_id=entry.service_point or entry.id,
        account_id=entry.account or entry.id,
        critical=entry.critical,
        settings=_resolve(entry, defaults),
        place=place,
        device=entry.device or "",
        priority=entry.priority,
    )


def _notes(content: ConfigurationFile) -> Iterator[str]:
    """What this version accepts and does not serve yet."""
    idle = {
        "north.opcua": content.north.opcua is not None,
        "north.mqtt": bool(content.north.mqtt),
    }
    for what, given in idle.items():
        if given:
            yield f"{what}: accepted, not served by this version yet"
