"""What must not start does not: it says what is wrong and what to do, with status 2."""

import sqlite3

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Stores and simulated meters; no process of the gateway runs."""
    return make_site(meters=2).prepare()


@pytest.mark.parametrize("command", ["control", "north", "run", "init"])
def test_a_wrong_configuration_is_told_with_its_place(site: Gateway, command: str) -> None:
    """Every problem with file, line and key; nothing is opened or made."""
    good = site.config.read_text(encoding="utf-8")
    site.config.write_text(good + "suply: {}\ncreate: maybe\n", encoding="utf-8")
    try:
        answer = site.cli(command)
    finally:
        site.config.write_text(good, encoding="utf-8")
    assert answer.returncode == 2
    told = answer.stderr.splitlines()
    assert any("suply: unknown key 'suply': did you mean 'supply'?" in line for line in told)
    assert any("create: is 'maybe'" in line for line in told)
    assert all(line.startswith(f"{site.config}:") for line in told), answer.stderr


@pytest.mark.parametrize("command", ["control", "north", "run"])
def test_a_missing_store_is_refused_and_names_init(make_site: MakeSite, command: str) -> None:
    """An installation never starts empty by accident."""
    empty = make_site(meters=1)
    (empty.directory / "meters.csv").write_text(
        "id,model,host,port,feeder\nflat-101,pac3220,127.0.0.1,9,riser-1\n", encoding="utf-8"
    )
    empty.write_config()
    answer = empty.cli(command)
    assert answer.returncode == 2, answer.stderr
    assert "init" in answer.stderr
    assert not list((empty.directory).glob("state/*/*.db"))


def test_init_never_overwrites(site: Gateway) -> None:
    """A second `init` is refused, and the store is what it was."""
    before = site.paths.ledger.read_bytes()
    answer = site.cli("init")
    assert answer.returncode == 1
    assert "STORE_EXISTS" in answer.stderr
    assert site.paths.ledger.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("currency", "EUR"), ("timezone", "Europe/Berlin"), ("id", "other"), ("money_scale", 6)],
)
def test_what_is_frozen_cannot_be_changed_in_the_file(
    site: Gateway, key: str, value: str | int
) -> None:
    """Site id, currency, scale and zone belong to the store: another value refuses the start."""
    site.write_config(**{key: value})
    try:
        answer = site.cli("control")
    finally:
        site.write_config()
    assert answer.returncode == 2, answer.stderr
    assert f"site.{key}: is {value!r}, but the stores were created with" in answer.stderr


def test_a_second_control_is_refused_and_names_the_first(site: Gateway) -> None:
    """One writer a file: the second instance ends at once with the pid of the first."""
    pid = site.start_process("control")
    site.until(site.control_reads, "the first control")
    answer = site.cli("control")
    assert answer.returncode == 2, answer.stderr
    assert "STORE_LOCKED" in answer.stderr
    assert str(pid) in answer.stderr
    site.until(site.control_reads, "the first control, undisturbed")
    assert site.pid("control") == pid
    assert site.stop("control") == 0


def test_a_meter_never_moves_with_its_id(site: Gateway) -> None:
    """Another service point for a meter that was assigned is refused by name."""
    meters = site.directory / "meters.csv"
    good = meters.read_text(encoding="utf-8")
    lines = good.splitlines()
    moved = [lines[0] + ",service_point", lines[1] + ",elsewhere", lines[2] + ",flat-102"]
    meters.write_text("\n".join(moved) + "\n", encoding="utf-8")
    try:
        answer = site.cli("control")
    finally:
        meters.write_text(good, encoding="utf-8")
    assert answer.returncode == 2, answer.stderr
    assert "flat-101 stays at flat-101" in answer.stderr


def test_a_forged_ledger_is_metered_but_never_switched(make_site: MakeSite) -> None:
    """A chain that does not verify: readings and recharges go on, nothing is switched."""
    site = make_site(meters=1).start()
    meter = "flat-101"
    site.open(meter, "0.016")
    site.recharge(meter, "0.008", "honest")
    assert site.stop("control") == 0
    forge(site)
    proof = site.cli("ledger", "verify")
    assert proof.returncode == 1
    site.start_process("control")
    site.ready()
    site.until(lambda: site.events("LEDGER_BROKEN"), "the alarm")
    site.load(6_000, meter)
    site.until(lambda: site.row(meter).available_nano < 0, "a debt")
    started = site.row(meter).sequence
    site.until(lambda: site.row(meter).sequence > started + 3, "readings")
    assert not site.cuts(meter)
    assert site.row(meter).output_closed is True
    assert site.recharge(meter, "5", "after")["state"] == "executed"


def forge(site: Gateway) -> None:
    """Change a recharge behind the ledger's back, as somebody with the file could."""
    with sqlite3.connect(site.paths.ledger) as connection:
        triggers = connection.execute(
            "SELECT name FROM sqlite_master "
            "WHERE type = 'trigger' AND tbl_name = 'ledger_transaction'"
        ).fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        changed = connection.execute(
            "UPDATE ledger_transaction SET request_key = 'forged' WHERE request_key = 'honest'"
        ).rowcount
    connection.close()
    assert changed == 1
