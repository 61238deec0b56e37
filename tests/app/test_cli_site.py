"""Commands that speak to a running north and to meters: what they say, ask for and end with."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.app.cli import app, run
from gateway.app.cli.meter import awaited_of
from gateway.app.config import load_config
from gateway.app.north import north_settings
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.app.voucher_key import load_voucher_keys
from gateway.core.reading import Quality
from gateway.core.requests import OpenAccount, ReplaceMeter
from gateway.core.switching import ControlState, Fault, Reason
from gateway.north.context import Listen, NorthSettings
from gateway.store.forecasts import AccountForecast, save_forecast
from tests.north.conftest import Served, serving
from tests.north.small_site import Executor
from tests.south.south_peers import Peer, float32, uint32
from tests.south.south_peers import serving as serving_peer

pytestmark = pytest.mark.slow

CONFIG = """\
site: {{id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}}
state_dir: state
runtime_dir: run
defaults: {{pac3220: {{port: {port}, p_max_w: 7360}}}}
meters:
  - {{id: flat-1, model: pac3220, host: 127.0.0.1}}
  - {{id: flat-2, model: pac3220, host: 127.0.0.2}}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it wrote."""

    status: object
    out: str
    err: str


class Terminal:
    """A person's terminal on the machine of a running site."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys

    async def run(self, *words: str) -> Ended:
        """Run a command with this site's configuration."""
        arguments = [*words, "-c", str(self._config)]

        def command() -> object:
            with pytest.raises(SystemExit) as ended:
                run(lambda: app(arguments))
            return ended.value.code

        # What the site itself logged so far is no answer of the command.
        self._capsys.readouterr()
        status = await asyncio.to_thread(command)
        written = self._capsys.readouterr()
        return Ended(status, written.out, written.err)


class Desk(Terminal):
    """A terminal at a small site."""

    def __init__(self, site: Served, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(config, capsys)
        self.site = site
        self.executor = site.executor


@pytest.fixture
def peer() -> Peer:
    """The device behind flat-1."""
    return Peer()


@pytest.fixture
async def config(tmp_path: Path, peer: Peer) -> AsyncIterator[Path]:
    """The configuration of a site whose first meter answers."""
    async with serving_peer(peer):
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG.format(port=peer.port), encoding="utf-8")
        make_runtime_dir(paths_of(load_config(path)).north_runtime_dir)
        yield path


@pytest.fixture
def settings(config: Path) -> NorthSettings:
    """What north makes of it, on a free port."""
    return replace(north_settings(load_config(config)), listen=(Listen("127.0.0.1", 0),))


@pytest.fixture
def executor(settings: NorthSettings) -> Iterator[Executor]:
    """Who executes requests there."""
    running = Executor(settings)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def desk(
    config: Path,
    settings: NorthSettings,
    executor: Executor,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    """A terminal that is wide enough for every table."""
    monkeypatch.setenv("COLUMNS", "200")
    async with serving(settings, executor) as site:
        yield Desk(site, config, capsys)


async def test_held_energy_is_decided_on(desk: Desk) -> None:
    """`meter release --accept` charges what was held, with a table of it; --reject nothing."""
    desk.executor.hold("flat-1")
    ended = await desk.run("meter", "release", "flat-1", "--accept", "--reason", "right")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("flat-1: held energy is decided on\n")
    assert [line.split() for line in ended.out.splitlines() if "90000" in line] == [["1", "90000"]]
    desk.executor.hold("flat-2")
    rejected = await desk.run(
        "meter", "release", "flat-2", "--reject", "--reason", "wrong", "--key", "k-1", "--json"
    )
    answer = json.loads(rejected.out)
    assert (answer["key"], answer["result"]) == ("k-1", {"charged_wh": [0, 0]})
    again = await desk.run("meter", "release", "flat-1", "--accept", "--reason", "twice")
    assert (again.status, again.out) == (1, "")
    assert again.err.startswith("NOTHING_HELD: ")


@pytest.mark.parametrize(
    "words",
    [
        ("meter", "release", "flat-1", "--reason", "x"),
        ("meter", "release", "flat-1", "--accept"),
        ("meter", "replace", "flat-1", "--closing", "1", "--reason", "x"),
        ("meter", "replace", "flat-1", "--closing", "1.5", "--opening", "0", "--reason", "x"),
        ("meter", "replace", "flat-1", "--closing", "1,", "--opening", "0", "--reason", "x"),
        ("meter", "replace", "flat-1", "--closing", "1", "--opening=-1", "--reason", "x"),
        ("clock", "confirm"),
        ("masscut", "release"),
    ],
)
async def test_decision_without_its_words_is_wrong_usage(
    desk: Desk, words: tuple[str, ...]
) -> None:
    """A decision, reason or register that is missing or no number: status 2, nothing asked."""
    ended = await desk.run(*words)
    assert (ended.status, ended.out) == (2, "")
    assert "Usage" in ended.err
    assert desk.executor.executed == 0


async def test_exchanged_meter_counts_on(desk: Desk) -> None:
    """`meter replace` sends whole Wh by register; what the old device still counted is charged."""
    desk.executor.guards["flat-1"].check(1, 0, (812_000, 0))
    ended = await desk.run(
        *("meter", "replace", "flat-1", "--key", "k-1", "--reason", "display broken"),
        *("--closing", "812900,0", "--opening", "17, 0"),
    )
    assert (ended.status, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines() if "900" in line] == [["1", "900"]]
    stored = await desk.site.context.records.request("k-1")
    assert stored is not None
    assert stored.request.body == ReplaceMeter("flat-1", (812_900, 0), (17, 0), "display broken")


async def test_clock_is_confirmed(desk: Desk) -> None:
    """`clock confirm` hands the reason to control; a reason of spaces is refused."""
    ended = await desk.run("clock", "confirm", "--reason", "compared with a phone")
    assert ended == Ended(0, "the clock is confirmed\n", "")
    assert desk.executor.clock_reasons == ["compared with a phone"]
    blank = await desk.run("clock", "confirm", "--reason", " ")
    assert blank.status == 1
    assert blank.err.startswith("VALIDATION: ")


async def test_one_person_is_one_half_of_a_release(desk: Desk) -> None:
    """`masscut release` without a halt, then as the first manager, then as the same one again."""
    none = await desk.run("masscut", "release", "--reason", "x")
    assert (none.status, none.err.partition(":")[0]) == (1, "NOT_HALTED")
    desk.executor.breaker.halted = True
    first = await desk.run("masscut", "release", "--reason", "price corrected")
    assert first == Ended(0, "noted; a second, different manager has to release it too\n", "")
    same = await desk.run("masscut", "release", "--reason", "again")
    assert (same.status, same.err.partition(":")[0]) == (1, "SAME_PERSON")


async def test_second_manager_ends_the_halt(desk: Desk) -> None:
    """After another manager's release this one is told that cuts go on."""
    desk.executor.breaker.halted = True
    desk.executor.breaker.release("somebody else")
    ended = await desk.run("masscut", "release", "--reason", "price corrected")
    assert ended == Ended(0, "released: cuts for credit go on\n", "")
    assert not desk.executor.breaker.halted


@pytest.mark.parametrize(
    "words",
    [
        ("clock", "confirm", "--reason", "x"),
        ("masscut", "release", "--reason", "x"),
        ("meter", "release", "flat-1", "--accept", "--reason", "x"),
    ],
)
async def test_decision_that_control_has_not_answered_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A wish that is only kept is not told as done."""
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 0.05)
    desk.executor.paused.set()
    ended = await desk.run(*words, "--key", "k-1")
    assert ended == Ended(0, "accepted, control has not answered yet: request k-1\n", "")


async def test_fault_is_shown_in_place_of_what_is_meant_to_be(desk: Desk) -> None:
    """While power flows after a failed cut, no list says that the customer is disconnected."""
    good = await desk.run("account", "list")
    assert "connected" in good.out
    row = desk.executor.rows[0]
    failed = replace(
        row,
        control_state=ControlState.DISCONNECTED,
        intended_closed=False,
        reasons=frozenset({Reason.CREDIT}),
        fault=Fault.FAILED_TO_OPEN,
        quality=Quality.GOOD,
    )
    desk.executor.show(0, failed)
    listed = await desk.run("account", "list")
    assert listed.out.startswith("Accounts, amounts in INR\n")
    assert "FAILED_TO_OPEN" in listed.out
    assert "disconnected" not in listed.out
    shown = await desk.run("account", "show", "flat-1")
    facts = [line.split() for line in shown.out.splitlines()]
    assert ["supply", "FAILED_TO_OPEN"] in facts
    assert ["meant", "to", "be", "disconnected"] in facts


@pytest.mark.slow
async def test_switch_says_what_it_waits_for_and_confirms_once(desk: Desk) -> None:
    """`meter switch on` waits through the minimum off time, confirms, and tells the proof."""
    off = await desk.run("meter", "switch", "flat-1", "off", "--reason", "works")
    assert off == Ended(0, "flat-1 off: verified, proved by output, current\n", "")
    desk.executor.min_off_s, desk.executor.turn_s = 0.5, 0.5
    on = await desk.run("meter", "switch", "flat-1", "on")
    assert (on.status, on.out) == (0, "flat-1 on: verified, proved by output, current\n")
    assert on.err == "flat-1: waiting for the minimum off time\n"
    assert desk.executor.executed == 3


@pytest.mark.slow
async def test_switch_gives_up_and_says_on_what(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its time the command ends with 1 and names what it still waited for."""
    monkeypatch.setattr("gateway.app.cli.meter.FOLLOW_ON_S", 1)
    await desk.run("meter", "switch", "flat-1", "off", "--reason", "works")
    desk.executor.min_off_s = 60.0
    on = await desk.run("meter", "switch", "flat-1", "on", "--json")
    assert on.status == 1
    assert json.loads(on.out)["state"] == "queued"
    assert on.err.splitlines() == [
        "flat-1: waiting for the minimum off time",
        "flat-1: not followed beyond 1 s; waiting for the minimum off time",
    ]


@pytest.mark.parametrize(
    ("state", "reasons", "on", "awaited"),
    [
        ("disconnected", [], True, "the minimum off time"),
        ("disconnected", ["MANUAL"], True, ""),
        ("disconnected", ["CREDIT", "MANUAL"], True, "what else blocks supply: CREDIT"),
        ("reconnecting", [], True, "the proof of the switch"),
        ("disconnecting", ["MANUAL"], False, "the proof of the switch"),
        ("connected", [], False, ""),
        ("disconnected", [], False, ""),
    ],
)
def test_what_a_switch_waits_for(state: str, reasons: list[str], *, on: bool, awaited: str) -> None:
    """The supply's state and reasons tell; the reason that `on` takes back itself is not named."""
    assert awaited_of({"control_state": state, "block_reasons": reasons}, on=on) == awaited


def test_a_supply_that_is_not_known_says_nothing() -> None:
    """Before the first reading there is no supply to speak of."""
    assert awaited_of({}, on=True) == ""


def wired(peer: Peer) -> None:
    """Three phases of 230 V at a meter in another subnet than ours."""
    peer.set(1, [word for volts in (230.0,) * 3 + (398.4,) * 3 for word in float32(volts)])
    peer.set(63001, uint32(0x0A0A010B) + uint32(0xFFFFFF00))


@pytest.mark.slow
async def test_another_subnet_does_not_keep_a_meter_from_being_commissioned(
    desk: Desk, peer: Peer
) -> None:
    """The IP filter cannot be read, but a write that changes nothing is taken: commissioned, once
    a person answers for the missing switch proof."""
    wired(peer)
    unproven = await desk.run("meter", "commission", "flat-1", "--json")
    assert (unproven.status, json.loads(unproven.out)["commissioned"]) == (1, None)
    assert unproven.err.startswith("flat-1: UNPROVEN: nobody saw this supply open and close")
    assert desk.executor.executed == 0
    word = ("--accept", "UNPROVEN", "--reason", "no load yet", "--json")
    ended = await desk.run("meter", "commission", "flat-1", *word)
    assert ended.status == 0
    told = json.loads(ended.out)
    assert (told["verdict"], told["commissioned"]) == ("accepted", "executed")
    assert (60007, 0) in peer.writes
    assert desk.executor.executed == 1
    read = await desk.run("meter", "read", "flat-1")
    assert (read.status, read.err.partition(":")[0]) == (0, "note")
    values = json.loads((await desk.run("meter", "read", "flat-1", "--json")).out)
    assert (values["output_problems"], len(values["output_notes"])) == ([], 1)


@pytest.mark.slow
async def test_an_output_that_does_not_obey_is_still_refused(desk: Desk, peer: Peer) -> None:
    """A failed check stays one: status 1 with the next step, nothing is commissioned."""
    wired(peer)
    peer.set(51711, [0, 4, 0])
    ended = await desk.run("meter", "commission", "flat-1")
    assert ended.status == 1
    assert "OUTPUT_MODE: output 0.0 has type of use 4; set it to 2 (switching" in ended.err
    assert desk.executor.executed == 0


async def test_a_voucher_is_sold_printed_and_redeemed(desk: Desk, tmp_path: Path) -> None:
    """The digits on the terminal, on the slip with its QR code, in files; then credit."""
    sold = await desk.run("voucher", "issue", "flat-1", "500.00", "--reference", "R-1")
    assert (sold.status, sold.err) == (0, "")
    title, digits = sold.out.splitlines()
    assert title == "voucher 1 of flat-1 over 500 INR"
    assert len(digits) == 24
    files = {kind: tmp_path / f"qr.{kind}" for kind in ("svg", "png")}
    words = [*("--width", "40", "--qr"), *("--svg", str(files["svg"]), "--png", str(files["png"]))]
    slip = await desk.run("voucher", "print", "flat-1", "1", *words)
    assert (slip.status, slip.err) == (0, "")
    for part in ("Palm", digits, "500.00 INR", "R-1", "█"):
        assert part in slip.out
    assert max(len(line) for line in slip.out.splitlines()) <= 40
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}
    assert files["svg"].read_bytes().startswith(b"<?xml")
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    again = await desk.run("voucher", "print", "flat-1", "1", "--svg", str(files["svg"]))
    assert (again.status, again.err.partition(":")[0]) == (1, "FILE_EXISTS")
    taken = await desk.run("voucher", "redeem", "flat-1", *digits.split())
    assert taken == Ended(0, "500 INR credited to flat-1, balance 500\n", "")
    twice = await desk.run("voucher", "redeem", "flat-1", digits)
    assert (twice.status, twice.err.partition(":")[0]) == (1, "VOUCHER_REDEEMED")
    nothing = await desk.run("voucher", "print", "flat-1", "1")
    assert (nothing.status, nothing.err.partition(":")[0]) == (1, "VOUCHER_STATE")


async def test_vouchers_are_listed_and_taken_back(desk: Desk) -> None:
    """The list has no digits; a taken back voucher says what to pay out."""
    sold = await desk.run("voucher", "issue", "flat-1", "20", "--provider", "kiosk", "--json")
    token = json.loads(sold.out)["result"]["token"]
    back = await desk.run("voucher", "cancel", "flat-1", "1", "--reason", "wrong flat")
    assert back == Ended(
        0, "voucher 1 of flat-1 is worth nothing any more: pay out 20 INR (kiosk)\n", ""
    )
    listed = await desk.run("voucher", "list", "flat-1")
    assert "cancelled" in listed.out
    assert token not in listed.out
    everything = json.loads((await desk.run("voucher", "list", "--json")).out)
    assert [(item["counter"], item["state"]) for item in everything] == [(1, "cancelled")]
    assert json.loads((await desk.run("voucher", "list", "flat-2", "--json")).out) == []


async def test_wrong_vouchers_and_unlocking(desk: Desk) -> None:
    """What is no voucher, what is not locked, what has no subject."""
    wrong = await desk.run("voucher", "redeem", "flat-1", "1845", "1462")
    assert (wrong.status, wrong.err) == (
        1,
        "VOUCHER_FORMAT: token: a voucher has 20 digits, these are 8\n",
    )
    open_ = await desk.run("voucher", "unlock", "flat-1", "--reason", "torn slip")
    assert (open_.status, open_.err.partition(":")[0]) == (1, "VOUCHER_NOT_LOCKED")
    usage = await desk.run("voucher", "print", "flat-1", "1", "--width", "20")
    assert usage.status == 2


async def test_the_voucher_key_is_exchanged(desk: Desk, config: Path) -> None:
    """A new first line; without a file there is nothing to exchange."""
    missing = await desk.run("voucher", "rotate-key")
    assert (missing.status, missing.err.partition(":")[0]) == (1, "KEY_ELSEWHERE")
    control = paths_of(load_config(config)).control_dir
    before = load_voucher_keys(control)
    done = await desk.run("voucher", "rotate-key")
    assert done.status == 0
    after = load_voucher_keys(control)
    assert after.former == (before.current,)
    assert after.mark in done.out
    assert after.current.hex() not in done.out


@pytest.mark.parametrize(
    ("tenths", "age_ms", "told"),
    [
        (34, 0, "3.4 days, confidence fair"),
        (34, 7_200_000, "3.4 days, confidence fair, STALE: as of "),
        (None, 0, "unknown yet"),
        (600, 0, "60.0 days or more, confidence fair"),
    ],
)
async def test_how_long_the_credit_lasts(
    desk: Desk, tenths: int | None, age_ms: int, told: str
) -> None:
    """`account show` has days, and instants in the site's time with its zone; or that none is."""
    utc_ms = desk.site.context.clock.utc_ms() - age_ms
    # 2027-01-15T13:30:00 in Kolkata.
    end_ms = 1_800_000_000_000 if tenths == 34 else None
    kept = AccountForecast(
        "flat-1", utc_ms, tenths, end_ms, end_ms, end_ms, "fair", beyond_horizon=tenths == 600
    )
    empty = await desk.run("account", "show", "flat-1")
    assert "unknown yet" in empty.out
    desk.executor.ledger.write(lambda connection: save_forecast(connection, kept))
    shown = await desk.run("account", "show", "flat-1")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    (line,) = [line for line in lines if line.startswith("credit lasts")]
    assert line.startswith(f"credit lasts {told}")
    instants = [line for line in lines if line.startswith(("top up by", "cut expected"))]
    moment = "2027-01-15 13:30:00 Asia/Kolkata"
    wanted = [f"top up by {moment}", f"cut expected {moment}"] if tenths == 34 else []
    assert instants == wanted


async def test_a_recharge_is_reversed_once(desk: Desk) -> None:
    """`account reverse` names the reversal; a second one is refused, and needs a reason."""
    await desk.run("account", "recharge", "flat-1", "5.00")
    items = json.loads((await desk.run("account", "show", "flat-1", "--json")).out)["transactions"]
    number = str(items[0]["id"])
    silent = await desk.run("account", "reverse", number)
    assert silent.status == 2
    ended = await desk.run("account", "reverse", number, "--reason", "wrong flat")
    assert (ended.status, ended.err) == (0, "")
    found = json.loads((await desk.run("account", "show", "flat-1", "--json")).out)
    reversal, original = found["transactions"][:2]
    assert ended.out == f"transaction {number} is reversed by transaction {reversal['id']}\n"
    assert (reversal["reverses"], original["reversed_by"]) == (int(number), reversal["id"])
    assert found["balance"] == "0"
    again = await desk.run("account", "reverse", number, "--reason", "again")
    assert (again.status, again.out) == (1, "")


async def test_a_request_is_shown_with_who_made_it(desk: Desk) -> None:
    """`request KEY` answers the auditor, for what was refused too."""
    await desk.run("account", "recharge", "flat-1", "5.00", "--key", "k-1")
    await desk.run("account", "recharge", "nobody", "5.00", "--key", "k-2")
    shown = (await desk.run("request", "k-1")).out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "what recharge" in lines
    assert "asked: amount 5" in lines
    assert "state executed" in lines
    assert any(line.startswith("asked by uid:") for line in lines)
    refused = " ".join((await desk.run("request", "k-2")).out.split())
    assert "refused ACCOUNT_UNKNOWN: there is no account nobody" in refused
    gone = await desk.run("request", "k-3")
    assert (gone.status, gone.err.partition(":")[0]) == (1, "REQUEST_UNKNOWN")


async def test_an_account_is_opened_with_its_terms(desk: Desk, tmp_path: Path) -> None:
    """A billed customer is one from the first moment; without a file the wish has no terms."""
    file = tmp_path / "terms.yaml"
    file.write_text("payment_mode: credit\nnotice_days: 10\n", encoding="utf-8")
    words = ("account", "open", "flat-2", "--tariff", "home")
    ended = await desk.run(*words, "--terms", str(file), "--key", "k-1")
    assert (ended.status, ended.out) == (0, "account flat-2 is open\n")
    stored = await desk.site.context.records.request("k-1")
    assert stored is not None
    assert isinstance(stored.request.body, OpenAccount)
    assert json.loads(stored.request.body.terms) == {"payment_mode": "credit", "notice_days": "10"}
    gone = await desk.run(*words, "--terms", str(tmp_path / "none.yaml"))
    assert gone.status == 2
