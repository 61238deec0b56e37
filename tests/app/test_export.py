"""`ledger export` and the script that goes with it: a stranger finds every change."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.app import check_export
from gateway.app.cli import app, run
from gateway.core.ledger import GENESIS, Transaction, TransactionKind, chain_hash, opening_of
from gateway.store.export import export_lines
from gateway.store.ledger import append_transaction, ledger_head
from tests.app.busy_site import BusySite
from tests.app.control_site import ControlSite

pytestmark = pytest.mark.slow

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """How the script ended and what it wrote."""

    status: int
    out: str


def checked(file: Path, *words: str) -> Checked:
    """Run the shipped script as a stranger does: no packages, no environment."""
    ended = subprocess.run(
        [sys.executable, "-I", "-S", check_export.__file__, str(file), *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.stderr == ""
    return Checked(ended.returncode, ended.stdout)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of an export of a site on which everything happened."""
    site = ControlSite(tmp_path_factory.mktemp("busy"), export="credited")
    try:
        asyncio.run(BusySite(site).live())
        assert site.proof().problems == ()
        return list(export_lines(site.file.connection))
    finally:
        site.crash()


@pytest.fixture
def file(ledger: list[bytes], tmp_path: Path) -> Path:
    """The export as a file."""
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(ledger))
    return path


def records(file: Path) -> list[Record]:
    """The file's lines, parsed."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(file: Path, lines: list[Record]) -> None:
    """Put other lines in their place."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def rehash(lines: list[Record]) -> None:
    """Chain all transactions anew and claim the new head, as a careful forger does."""
    link = GENESIS
    for line in lines:
        if "transaction" in line:
            link = chain_hash(link, line["transaction"])
            line["hash"] = link.hex()
    lines[-1]["head"] = link.hex()


def of_kind(lines: list[Record], kind: str) -> Record:
    """The first transaction of a kind."""
    return next(
        line["transaction"] for line in lines if line.get("transaction", {}).get("kind") == kind
    )


def test_the_script_is_short_and_needs_nothing() -> None:
    """At most 150 lines, standard library only."""
    text = Path(check_export.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imports = {line for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports == {"import hashlib", "import json", "import sys", "from typing import Any"}


def test_a_true_export_holds(file: Path) -> None:
    """Every kind of transaction is in it, and a hash from the middle is known."""
    lines = records(file)
    kinds = {line["transaction"]["kind"] for line in lines if "transaction" in line}
    assert kinds == {kind.value for kind in TransactionKind} - {"refund"}
    found = checked(file)
    assert (found.status, found.out.splitlines()[1:]) == (0, ["everything holds"])
    assert f"{lines[-1]['seq']} transactions" in found.out
    middle = next(line["hash"] for line in lines if line.get("hash"))
    assert checked(file, middle.upper()).status == 0
    unknown = checked(file, "00" * 32)
    assert unknown.status == 1
    assert "the hash that you know is not part of this chain" in unknown.out


def amount(lines: list[Record]) -> str:
    """A recharge of more than was paid, balanced."""
    recharge = of_kind(lines, "recharge")
    recharge["entries"][0][1] += 1
    recharge["entries"][-1][1] -= 1
    return f"transaction {recharge['seq']}: its hash does not fit"


def unbalanced(lines: list[Record]) -> str:
    """An entry that faces nothing."""
    recharge = of_kind(lines, "recharge")
    recharge["entries"][0][1] += 1
    rehash(lines)
    return f"transaction {recharge['seq']}: its entries sum to 1"


def price(lines: list[Record]) -> str:
    """A price one micro-unit up."""
    for line in lines:
        if "cells" in line and line["tariff"] == "home":
            line["cells"] = {cell: price + 1 for cell, price in line["cells"].items()}
    return "transaction 4: meter flat-1: its energy is not charged at the price of its rate"


def energy(lines: list[Record]) -> str:
    """A Wh less in the cells alone."""
    line = next(
        line
        for record in lines
        for line in record.get("transaction", {}).get("settlements", ())
        if line["cells"]
    )
    line["cells"][next(iter(line["cells"]))] -= 1
    rehash(lines)
    return "energy was priced that was not settled"


def registers(lines: list[Record]) -> str:
    """A line that begins above where the one before ended: energy that nobody pays."""
    meter = [
        line
        for record in lines
        for line in record.get("transaction", {}).get("settlements", ())
        if line["meter"] == "flat-1"
    ]
    meter[1]["from_wh"][0] += 1
    meter[1]["to_wh"][0] += 1
    rehash(lines)
    return "begins at other registers than the line before ended"


def exported(lines: list[Record]) -> list[Record]:
    """The lines with export registers of the first flat."""
    return [
        line
        for record in lines
        for line in record.get("transaction", {}).get("settlements", ())
        if "export" in line and line["meter"] == "flat-1"
    ]


def export_registers(lines: list[Record]) -> str:
    """An export pair that begins and ends above where it was."""
    pair = exported(lines)[1]["export"]
    pair["from_wh"][0] += 1
    pair["to_wh"][0] += 1
    rehash(lines)
    return "export: begins at other registers than the line before ended"


def export_energy(lines: list[Record]) -> str:
    """A Wh more between the same export registers, paid for."""
    line = next(line for line in exported(lines) if not line["export"]["flags"])
    line["export"]["advance_wh"][0] += 1
    rehash(lines)
    return "export: its registers moved otherwise than settled, and no flag says why"


def export_credit(lines: list[Record]) -> str:
    """More Wh on the export registers than are paid for."""
    pair = exported(lines)[-1]["export"]
    pair["advance_wh"][0] += 5
    pair["to_wh"][0] += 5
    rehash(lines)
    return "its energy is not charged at the price of its rate"


def export_for_nothing(lines: list[Record]) -> str:
    """The export registers taken out of a line that pays for them."""
    del next(line for line in exported(lines) if "export" in line["charges"])["export"]
    rehash(lines)
    return "its energy is not charged at the price of its rate"


def fee(lines: list[Record]) -> str:
    """A fee that is charged and not taken from the wallet."""
    line = next(
        line
        for record in lines
        for line in record.get("transaction", {}).get("settlements", ())
        if "fixed" in line["charges"]
    )
    line["charges"]["fixed"] += 1
    rehash(lines)
    return "its entries are not what its lines charge"


def removed(lines: list[Record]) -> str:
    """A line taken out."""
    index = next(i for i, line in enumerate(lines) if line.get("transaction", {}).get("seq") == 7)
    del lines[index]
    return "transaction 6: is followed by 8"


def swapped(lines: list[Record]) -> str:
    """Two lines in the other order."""
    lines[-3], lines[-2] = lines[-2], lines[-3]
    return f"is followed by {lines[-3]['transaction']['seq']}"


def truncated(lines: list[Record]) -> str:
    """The end is missing."""
    last = lines[-2]["transaction"]["seq"]
    del lines[-1]
    return f"cut short after transaction {last}"


def shortened(lines: list[Record]) -> str:
    """The last transaction is missing, the end is there."""
    last = lines[-2]["transaction"]["seq"]
    del lines[-2]
    return f"transaction {last - 1}: is the last one, the file claims {last}"


def balance(lines: list[Record]) -> str:
    """A balance that its entries do not sum to."""
    lines[-1]["balances"]["wallet:asha"] += 1
    return "the balance of wallet:asha is not the sum"


def reversal(lines: list[Record]) -> str:
    """A reversal that gives back more than was paid."""
    reversed_ = of_kind(lines, "reversal")
    reversed_["entries"][0][1] -= 1
    reversed_["entries"][-1][1] += 1
    rehash(lines)
    return f"does not undo transaction {reversed_['reverses']}"


def twice(lines: list[Record]) -> str:
    """A recharge that is undone twice."""
    reversed_ = [
        line["transaction"]
        for line in lines
        if line.get("transaction", {}).get("kind") == "reversal"
    ]
    reversed_[1]["reverses"] = reversed_[0]["reverses"]
    reversed_[1]["entries"] = reversed_[0]["entries"]
    rehash(lines)
    return "or undoes it again"


def second_price(lines: list[Record]) -> str:
    """The same rate with another price later."""
    tariff = next(line for line in lines if "cells" in line)
    lines.insert(-1, {**tariff, "cells": dict.fromkeys(tariff["cells"], 1)})
    return "a second price for"


def unknown_rate(lines: list[Record]) -> str:
    """A tariff is missing."""
    lines[:] = [line for line in lines if "cells" not in line or line["tariff"] != "shop"]
    return "KeyError(('shop', "


def appended(lines: list[Record]) -> str:
    """Something stands after the end."""
    lines.append(lines[-2])
    return f"line {len(lines)} or the one after it cannot be read: ValueError"


def headless(lines: list[Record]) -> str:
    """A file of another kind."""
    del lines[0]
    return "line 1 or the one after it cannot be read: ValueError"


TAMPERED = (
    amount, unbalanced, price, energy, registers, fee, removed, swapped, truncated, shortened,
    export_registers, export_energy, export_credit, export_for_nothing,
    balance, reversal, twice, second_price, unknown_rate, appended, headless,
)  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_changed_file_is_found(file: Path, tamper: Callable[[list[Record]], str]) -> None:
    """Exit 1, and the place is named."""
    lines = records(file)
    write(file, lines)
    assert checked(file).status == 0, "the same content in another form still holds"
    told = tamper(lines)
    write(file, lines)
    found = checked(file)
    assert found.status == 1
    assert told in found.out


@pytest.mark.parametrize("keep", [0, 1, 500, -1, -40])
def test_a_file_cut_anywhere_is_found(file: Path, keep: int) -> None:
    """In the middle of a line too."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) + keep - 1 if keep < 0 else keep])
    found = checked(file)
    assert found.status == 1
    assert "the file was cut short after transaction" in found.out


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Exit 1, no traceback."""
    found = checked(tmp_path / "nothing")
    assert found.status == 1
    assert "FileNotFoundError" in found.out


def of_amount(amount_nano: int) -> Transaction:
    """An opening balance."""
    return opening_of("asha", amount_nano, utc_ms=1, request_key=f"key-{amount_nano}")


def test_what_is_posted_meanwhile_is_part_of_it(tmp_path: Path) -> None:
    """The export goes on to the head at its end; its balances are those of that head."""
    site = ControlSite(tmp_path)
    try:
        connection = site.file.connection
        for number in range(260):
            append_transaction(connection, of_amount(number + 1))
        steps: list[tuple[int, int]] = []

        def post(done: int, total: int) -> None:
            steps.append((done, total))
            if len(steps) == 1:
                append_transaction(connection, of_amount(1_000))

        path = tmp_path / "ledger.jsonl"
        path.write_bytes(b"".join(export_lines(connection, post)))
        assert steps[0][1] + 1 == steps[-1][0] == ledger_head(connection).seq
        assert checked(path).status == 0
    finally:
        site.crash()


def test_the_command_writes_file_and_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is overwritten by accident; the script beside the file checks it."""
    site = ControlSite(tmp_path)
    site.crash()
    path = tmp_path / "out.jsonl"

    def export(to: Path) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            run(lambda: app(["ledger", "export", str(to), "-c", str(tmp_path / "config.yaml")]))
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    status, out, _ = export(path)
    assert (status, "check_export.py" in out) == (0, True)
    assert path.stat().st_mode & 0o777 == 0o600, "what customers paid is nobody else's to read"
    script = tmp_path / "check_export.py"
    assert script.read_bytes() == Path(check_export.__file__).read_bytes()
    assert checked(path).status == 0
    for taken in (path, script):
        status, _, err = export(taken)
        assert (status, err.partition(":")[0]) == (1, "FILE_EXISTS")
    status, _, err = export(tmp_path / "no such directory" / "out.jsonl")
    assert (status, err.partition(":")[0]) == (1, "EXPORT_FAILED")
