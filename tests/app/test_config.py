"""The configuration: defaults, merging, and every problem at once with its place."""

import json
import time
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from gateway.app.config import Config, load_config
from gateway.app.config_place import Place
from gateway.app.config_print import as_document, as_yaml, json_schema
from gateway.app.config_site import currency_of
from gateway.core.errors import ConfigurationError

SITE = "site: {id: palm-court, name: Palm Court, timezone: Asia/Kolkata, currency: INR}\n"

# The excerpt of the published interface.
CONTRACT = (
    SITE
    + """\
state_dir: /var/lib/prepaid-gateway
defaults:
  pac3220: {port: 502, unit: 1, poll_s: 1, timeout_s: 1,
            output: "0.0", output_on: connects, confirm: arm}
meters:
  - {id: flat-101, model: pac3220, host: 10.10.1.11, feeder: riser-a}
  - {id: kiosk-7, model: pzem-node}
meters_file: meters.csv
south:
  mqtt: {host: 127.0.0.1, port: 1883}
north:
  http: {listen: "127.0.0.1:8080"}
  opcua: {endpoint: "opc.tcp://0.0.0.0:4840", users: store}
  mqtt:
    - {name: hq, host: broker.example.org, port: 8883, tls: {ca: ca.pem}, profile: json}
    - {name: scada, host: 10.0.0.5, profile: sparkplug, group: palm-court}
"""
)


def load(directory: Path, text: str, csv: str | None = None) -> Config:
    """Load a YAML text (and the CSV it names meters.csv) from real files in `directory`."""
    path = directory / "config.yaml"
    path.write_text(text, encoding="utf-8")
    if csv is not None:
        (directory / "meters.csv").write_text(csv, encoding="utf-8")
    return load_config(path)


def problems(directory: Path, text: str, csv: str | None = None) -> list[str]:
    """The problems of a configuration, without the directory in the names of files."""
    with pytest.raises(ConfigurationError) as caught:
        load(directory, text, csv)
    return [problem.replace(f"{directory}/", "") for problem in caught.value.problems]


def test_a_minimal_file_takes_every_default(tmp_path: Path) -> None:
    """Only the site is required; the rest are the documented defaults."""
    config = load(tmp_path, SITE)
    assert config.site.money_scale == 9
    assert config.state_dir == Path("/var/lib/prepaid-gateway")
    assert config.runtime_dir == Path("/run/prepaid-gateway")
    assert config.create is False
    assert config.meters == ()
    assert (config.north.http.host, config.north.http.port) == ("127.0.0.1", 8080)
    assert config.supply.mass_cut.max_cuts == 10
    assert config.notes == ()


def test_the_excerpt_of_the_contract_is_accepted(tmp_path: Path) -> None:
    """The published example loads, and says what this version does not serve yet."""
    (tmp_path / "ca.pem").write_text("")
    config = load(tmp_path, CONTRACT, "id,model,host\nflat-102,pac3220,10.10.1.12\n")
    assert [meter.meter_id for meter in config.meters] == ["flat-101", "flat-102"]
    assert [node.meter_id for node in config.nodes] == ["kiosk-7"]
    assert [note.partition(":")[0] for note in config.notes] == [
        "north.opcua",
        "north.mqtt",
    ]


def test_a_meter_takes_settings_from_its_models_defaults(tmp_path: Path) -> None:
    """Own setting, then the model's default, then the built-in one; models do not mix."""
    text = (
        SITE
        + """\
defaults:
  pac3220: {port: 1502, confirm: auto, feedback: 0.1}
meters:
  - {id: a, model: pac3220, host: 10.0.0.1}
  - {id: b, model: pac3220, host: 10.0.0.2, port: 502, feedback: null, p_max_w: 7360}
  - {id: c, model: pac2200, host: 10.0.0.3}
"""
    )
    first, second, other = (meter.settings for meter in load(tmp_path, text).meters)
    assert (first.port, first.confirm, first.feedback) == (1502, "auto", "0.1")
    assert (second.port, second.confirm, second.feedback) == (502, "auto", None)
    assert second.p_max_w == 7360
    assert (other.port, other.confirm, other.feedback) == (502, "arm", None)


def test_a_row_of_the_csv_takes_defaults_like_a_meter_of_the_yaml(tmp_path: Path) -> None:
    """An empty cell is a setting that was not given."""
    text = SITE + "defaults: {pac3220: {port: 1502}}\nmeters_file: meters.csv\n"
    csv = "id;model;host;port;label\nflat-1;pac3220;10.0.0.1;;Wohnung 1 · Süd\n"
    (meter,) = load(tmp_path, text, csv).meters
    assert meter.settings.port == 1502
    assert meter.label == "Wohnung 1 · Süd"
    assert meter.place == Place("meters.csv", 2, 1)


def test_point_and_account_are_the_meters_id_unless_named(tmp_path: Path) -> None:
    """A meter gets a service point and an account of the same id."""
    text = (
        SITE
        + """\
meters:
  - {id: a, model: pac3220, host: 10.0.0.1}
  - {id: b, model: pac3220, host: 10.0.0.2, service_point: shop-2, account: tenant-2}
"""
    )
    first, second = load(tmp_path, text).meters
    assert (first.service_point_id, first.account_id) == ("a", "a")
    assert (second.service_point_id, second.account_id) == ("shop-2", "tenant-2")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    """Text stays text: no octal ids, no floats from 0.0, no booleans from `no`."""
    text = (
        "site: {id: 007, name: no, timezone: Asia/Kolkata, currency: INR}\n"
        "meters:\n  - {id: 1e3, model: pac3220, host: 10.0.0.1, output: 0.0, label: 12:30}\n"
    )
    config = load(tmp_path, text)
    assert (config.site.id, config.site.name) == ("007", "no")
    assert (config.meters[0].meter_id, config.meters[0].label) == ("1e3", "12:30")
    assert config.meters[0].settings.output == "0.0"


def test_every_problem_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes of every kind in two files: one run names them all, each at its place."""
    monkeypatch.chdir(Path(__file__).parent / "broken")
    with pytest.raises(ConfigurationError) as caught:
        load_config(Path("config.yaml"))
    expected = Path("problems.txt").read_text(encoding="utf-8").splitlines()
    assert list(caught.value.problems) == expected


@pytest.mark.parametrize(
    ("listen", "rest"),
    [
        ("127.0.0.1:8080", ""),
        ("127.9.9.9:80", ""),
        ("localhost:8080", ""),
        ('"[::1]:8080"', ""),
        ("0.0.0.0:8080", ", behind_proxy: [10.0.0.2]"),
        ('"[::]:8443"', ", tls: {cert: cert.pem, key: key.pem}"),
    ],
)
def test_a_protected_listener_is_accepted(tmp_path: Path, listen: str, rest: str) -> None:
    """Loopback needs nothing; beyond it TLS or a stated reverse proxy."""
    (tmp_path / "cert.pem").write_text("")
    (tmp_path / "key.pem").write_text("")
    (tmp_path / "key.pem").chmod(0o640)
    config = load(tmp_path, SITE + f"north: {{http: {{listen: {listen}{rest}}}}}\n")
    assert config.north.http.port in {80, 8080, 8443}


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", '"[::]:8080"', "192.168.1.5:8080"])
def test_a_listener_open_to_the_network_is_refused(tmp_path: Path, listen: str) -> None:
    """Without TLS or a stated proxy a listener stays on this machine."""
    (found,) = problems(tmp_path, SITE + f"north: {{http: {{listen: {listen}}}}}\n")
    assert "is reachable from the network without TLS" in found


@pytest.mark.parametrize(
    "listen",
    ["8080", "gateway.example:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "::1:80"],
)
def test_a_listener_that_is_no_address_and_port_is_refused(tmp_path: Path, listen: str) -> None:
    """A name could move to another interface; a port has to be one."""
    (found,) = problems(tmp_path, SITE + f'north: {{http: {{listen: "{listen}"}}}}\n')
    assert found.startswith("config.yaml:2:24: north.http.listen: ")


def test_files_are_found_beside_the_configuration(tmp_path: Path) -> None:
    """Relative paths start where the file lies, not where the program was started."""
    config = load(tmp_path, SITE + "state_dir: state\nruntime_dir: run\n")
    assert config.state_dir == tmp_path / "state"
    assert config.runtime_dir == tmp_path / "run"


def test_a_secret_open_to_everybody_is_refused(tmp_path: Path) -> None:
    """A private key that other users may read is no secret; the remedy is named."""
    (tmp_path / "cert.pem").write_text("")
    key = tmp_path / "key.pem"
    key.write_text("")
    key.chmod(0o644)
    text = SITE + "north: {http: {tls: {cert: cert.pem, key: key.pem}}}\n"
    (found,) = problems(tmp_path, text)
    assert found == (
        "config.yaml:2:43: north.http.tls.key: 'key.pem' is open to everybody: chmod o= key.pem"
    )


def test_a_missing_file_is_named_where_it_is_referred_to(tmp_path: Path) -> None:
    """A CSV that is not there is a problem of the key that names it."""
    (found,) = problems(tmp_path, SITE + "meters_file: meters.csv\n")
    assert found == "config.yaml:2:14: meters_file: there is no file 'meters.csv'"


def test_a_secret_cannot_be_written_into_the_file(tmp_path: Path) -> None:
    """There is no key for a password, only for the file that holds it."""
    (found,) = problems(tmp_path, SITE + "south: {mqtt: {host: 127.0.0.1, password: x}}\n")
    assert "unknown key 'password': did you mean 'password_file'?" in found


def test_a_runtime_directory_must_leave_room_for_sockets(tmp_path: Path) -> None:
    """A path too long for a Unix socket is refused here, not when the socket is bound."""
    (found,) = problems(tmp_path, SITE + f"runtime_dir: /{'r' * 90}\n")
    assert "is longer than 90 characters" in found


def test_points_and_accounts_are_not_shared(tmp_path: Path) -> None:
    """Two meters on one service point or account are refused, also against an implied id."""
    text = (
        SITE
        + """\
meters:
  - {id: a, model: pac3220, host: 10.0.0.1}
  - {id: b, model: pac3220, host: 10.0.0.2, service_point: a}
  - {id: c, model: pac3220, host: 10.0.0.3, account: tenant}
  - {id: d, model: pac3220, host: 10.0.0.4, account: tenant}
"""
    )
    point, account = problems(tmp_path, text)
    assert point == (
        "config.yaml:4:60: meters[1].service_point: the service point 'a' stands twice, first at "
        "config.yaml:3:10"
    )
    assert account == (
        "config.yaml:6:54: meters[3].account: the account 'tenant' stands twice, first at "
        "config.yaml:5:54"
    )


def test_one_address_in_two_spellings_is_one_meter(tmp_path: Path) -> None:
    """Case of a name and spelling of an IPv6 address do not make another meter."""
    text = (
        SITE
        + """\
meters:
  - {id: a, model: pac3220, host: Meter-1.local}
  - {id: b, model: pac3220, host: meter-1.LOCAL}
  - {id: c, model: pac3220, host: "fe80::1"}
  - {id: d, model: pac3220, host: "fe80:0::1"}
  - {id: e, model: pac3220, host: "fe80::1", unit: 2}
"""
    )
    found = problems(tmp_path, text)
    assert [problem.split(":")[1] for problem in found] == ["4", "6"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "config.yaml:1:1: site: is missing: Who and where the site is."),
        ("- a\n", "config.yaml:1:1: (file): is a list of 1: expected a map of keys and values"),
        ("meters: {a: 1}\n" + SITE, "config.yaml:1:9: meters: is a map: expected a list"),
        (
            SITE + "supply: 5\n",
            "config.yaml:2:9: supply: is '5': expected a map of keys and values",
        ),
        (SITE + "create: 7\n", "config.yaml:2:9: create: is '7': expected true or false"),
        (SITE + "state_dir:\n", "config.yaml:2:11: state_dir: has no value"),
        (
            SITE + 'meters: [{id: a, model: pac3220, host: a.b, label: "a\\nb"}]\n',
            "config.yaml:2:52: meters[0].label: 'a\\nb' holds a control character",
        ),
    ],
)
def test_a_value_of_the_wrong_form_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """Whatever stands where something else belongs is one sentence at its place."""
    assert problems(tmp_path, text) == [expected]


def test_an_emptied_section_means_its_defaults(tmp_path: Path) -> None:
    """`supply:` with every key commented out is no mistake."""
    config = load(tmp_path, SITE + "supply:\n  # retries: 3\nmeters:\n")
    assert config.supply.retries == 2


def test_nothing_in_it_changes_after_it_was_read(tmp_path: Path) -> None:
    """A configuration is a value: a section refuses assignment."""
    config = load(tmp_path, SITE)
    with pytest.raises(ValueError, match="frozen"):
        config.supply.retries = 9


def test_a_configuration_that_is_not_there_says_so(tmp_path: Path) -> None:
    """A wrong path is a problem with a place like any other."""
    with pytest.raises(ConfigurationError) as caught:
        load_config(tmp_path / "absent.yaml")
    expected = f"{tmp_path}/absent.yaml:1:1: (file): cannot be read: No such file or directory"
    assert caught.value.problems == (expected,)


def test_what_is_printed_loads_to_the_same(tmp_path: Path) -> None:
    """`check --print` is a configuration: with every default written out it means the same."""
    (tmp_path / "ca.pem").write_text("")
    config = load(tmp_path, CONTRACT, "id,model,host,feedback\nflat-2,pac3220,10.0.0.2,4.3\n")
    printed = tmp_path / "printed.yaml"
    printed.write_text(as_yaml(as_document(config)), encoding="utf-8")
    again = load_config(printed)
    assert as_document(again) == as_document(config)
    assert again.meters == config.meters
    assert again.nodes == config.nodes


NODES = """\
south: {mqtt: {host: 127.0.0.1}}
defaults: {pzem-node: {confirm: auto, p_max_w: 5000}}
meters:
  - {id: kiosk-1, model: pzem-node}
  - {id: flat-1, model: pac3220, host: 10.0.0.1}
  - {id: kiosk-2, model: pzem-node, device: node-aabbccddeeff, p_max_w: 2300, priority: 3}
"""


def test_nodes_are_points_after_the_meters(tmp_path: Path) -> None:
    """One order for control: meters first, whatever the file mixes; defaults as for meters."""
    config = load(tmp_path, SITE + NODES)
    assert [point.meter_id for point in config.points] == ["flat-1", "kiosk-1", "kiosk-2"]
    first, second = config.nodes
    assert (first.device, first.settings.p_max_w, first.settings.confirm) == ("", 5_000, "auto")
    assert (second.device, second.settings.p_max_w) == ("node-aabbccddeeff", 2_300)
    assert (first.settings.poll_s, second.priority) == (10.0, 3)


def test_a_node_takes_a_hundred_amperes_unless_told(tmp_path: Path) -> None:
    """The transformer of the module."""
    text = SITE + "south: {mqtt: {host: 127.0.0.1}}\nmeters:\n  - {id: k, model: pzem-node}\n"
    (node,) = load(tmp_path, text).nodes
    assert node.settings.p_max_w == 23_000


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("meters:\n  - {id: k, model: pzem-node}\n", "is heard over a broker: give south.mqtt"),
        (NODES.replace("confirm: auto", "poll_s: 1"), "a pzem-node has no such key"),
        (NODES.replace("host: 10.0.0.1", "host: 10.0.0.1, device: ab"), "only a node has a device"),
        (NODES.replace("node-aabbccddeeff", "kiosk-1"), "the device 'kiosk-1' stands twice"),
        (NODES.replace("host: 127.0.0.1", "host: 10.0.0.9"), "without TLS: give south.mqtt.tls"),
        (NODES.replace("host: 127.0.0.1", "host: broker"), "without TLS: give south.mqtt.tls"),
    ],
)
def test_what_a_node_cannot_have_is_said_at_its_place(
    tmp_path: Path, more: str, expected: str
) -> None:
    """A key of Modbus, a broker over the open network, one device twice."""
    assert any(expected in problem for problem in problems(tmp_path, SITE + more))


def test_a_broker_beyond_this_machine_is_said_to_be_on_a_network_of_its_own(tmp_path: Path) -> None:
    """TLS, or somebody's word."""
    stated = NODES.replace("host: 127.0.0.1", "host: 10.0.0.9, trusted_network: true")
    mqtt = load(tmp_path, SITE + stated).south.mqtt
    assert mqtt is not None
    assert (mqtt.host, mqtt.trusted_network) == ("10.0.0.9", True)


def test_the_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    """The JSON Schema takes the contract's excerpt and no unknown key in it."""
    schema = jsonschema_rs.validator_for(json_schema())
    document = yaml.safe_load(CONTRACT)
    schema.validate(document)
    document["meters"][0]["hots"] = "x"
    assert not schema.is_valid(document)


@pytest.mark.slow
def test_800_meters_load_from_a_csv(tmp_path: Path) -> None:
    """A whole site loads; the time it took is printed (bench/config.py measures it)."""
    rows = [
        f"flat-{n},pac3220,10.10.{n // 250}.{n % 250 + 1},riser-{n % 8},7360,Flat {n}\n"
        for n in range(800)
    ]
    csv = "id,model,host,feeder,p_max_w,label\n" + "".join(rows)
    text = SITE + "meters_file: meters.csv\n"
    started = time.perf_counter()
    config = load(tmp_path, text, csv)
    print(f"800 meters in {time.perf_counter() - started:.3f} s")  # noqa: T201 - a figure
    assert len(config.meters) == 800
    assert config.meters[799].host == "10.10.3.50"


@pytest.mark.parametrize("number", [".nan", "nan", "inf", "-inf", "1e999"])
def test_what_is_no_finite_number_is_refused(tmp_path: Path, number: str) -> None:
    """Neither infinity nor NaN passes for a number of seconds."""
    (found,) = problems(tmp_path, SITE + f"supply: {{verify_s: {number}}}\n")
    assert found == f"config.yaml:2:20: supply.verify_s: is '{number}': expected a number"


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    """A destination's cursor is kept under its name."""
    text = SITE + "north: {mqtt: [{name: hq, host: a.b}, {name: hq, host: c.d}]}\n"
    assert problems(tmp_path, text) == [
        "config.yaml:2:15: north.mqtt: two destinations are called 'hq'"
    ]


def test_problems_of_the_tables_form_are_reported_with_the_rest(tmp_path: Path) -> None:
    """A comma too many in the CSV does not hide, and is not hidden by, other problems."""
    text = SITE + "stat_dir: x\nmeters_file: meters.csv\n"
    assert problems(tmp_path, text, "id,model,host\na,pac3220,10.0.0.1,x\n") == [
        "config.yaml:2:1: stat_dir: unknown key 'stat_dir': did you mean 'state_dir'?",
        "meters.csv:2:1: (file): 4 cells under 3 columns",
    ]


def test_the_number_of_problems_is_bounded(tmp_path: Path) -> None:
    """Thousands of equal mistakes are counted, not all printed."""
    rows = "".join(f"m{n},pac3220,10.0.0.999\n" for n in range(2_100))
    text = SITE + "meters_file: meters.csv\n"
    found = problems(tmp_path, text, "id,model,host\n" + rows)
    assert len(found) == 2_001
    assert found[-1] == "… and 100 more problems"


def test_the_schema_promises_no_default_that_another_key_decides() -> None:
    """A meter's port is that of its model's defaults, so its schema names none."""
    shape = json.dumps(json_schema())
    assert json.loads(shape)["$defs"]["MeterSettings"]["properties"]["port"]["default"] == 502
    assert "default" not in json.loads(shape)["$defs"]["MeterEntry"]["properties"]["port"]


def test_the_largest_amount_of_a_site_fits_its_money_scale(tmp_path: Path) -> None:
    """What sums of 64 bits cannot bear is refused at its key, with the scale that could."""
    large = "amount_max: 1000000000"
    (found,) = problems(tmp_path, SITE.replace("}", f", {large}}}", 1))
    assert found == (
        "config.yaml:1:93: site.amount_max: the largest amount lies between 1 and 100000000 at "
        "money scale 9, or sums would not fit into 64 bits; money scale 6 keeps more"
    )
    site = load(tmp_path, SITE.replace("}", f", money_scale: 6, {large}}}", 1)).site
    assert currency_of(site).amount_max_nano == 10**15
