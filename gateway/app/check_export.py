"""Checks a ledger that `prepaid-gateway ledger export` wrote. Python 3.9 or newer, nothing else.

    python3 check_export.py ledger.jsonl [HASH]

It proves from the file alone: the chain of hashes, without a gap; that transactions sum to zero;
that each Wh, used or fed in, was priced once, at its rate, from register to register; that entries
are what lines charge; that nothing is reversed twice or otherwise; that balances are sums. HASH is
one that you know (of an older export): it must be in the chain. Exit status 0: everything holds.

Amounts are integers of the smallest unit kept: 10^-money_scale of the currency. Energy is in Wh,
prices in 10^-(money_scale - 3) of the currency per kWh, so that price * Wh is an amount.
"""

import hashlib
import json
import sys
from typing import Any

REBASING = {"ROLLOVER", "REGISTER_REGRESSION", "METER_RESET", "RELEASED", "METER_REPLACED"}


def add(sums: dict[str, int], name: str, amount: int) -> None:
    """Add to one of the sums; a sum of zero is no entry."""
    total = sums.pop(name, 0) + amount
    if total:
        sums[name] = total


class Check:
    """Walks the file once and keeps what it finds."""

    def __init__(self, known: str) -> None:
        self.known, self.link, self.seq, self.energy_wh, self.ended = known, bytes(32), 0, 0, False
        self.problems: list[str] = []
        self.balances: dict[str, int] = {}
        self.prices: dict[tuple[str, str], int] = {}
        self.registers: dict[tuple[str, str, str, bool], list[int]] = {}
        self.stays: set[tuple[str, str, int]] = set()  # when an account began to pay for a point
        self.others: dict[int, dict[str, int]] = {}  # what no settlement moved, until reversed

    def wrong(self, what: str) -> None:
        """Note a problem at the present transaction."""
        self.problems.append(f"transaction {self.seq}: {what}")

    def take(self, record: Any, number: int) -> None:
        """Take the next line of the file."""
        if self.ended or (record.get("format") == "prepaid-gateway ledger 1") != (number == 1):
            raise ValueError("it does not belong here")
        if "transaction" in record:
            self.transaction(record["transaction"], record["hash"])
        for cell, price in record.get("cells", {}).items():
            if self.prices.setdefault((record["tariff"], cell), price) != price:
                raise ValueError(f"a second price for {cell}")
        if "stay" in record:
            self.stays.add((record["stay"], record["service_point"], record["from_utc_ms"]))
        if "head" in record:
            self.end(record)

    def transaction(self, body: Any, claimed: str) -> None:
        """Prove one transaction."""
        if body["seq"] != self.seq + 1:
            self.wrong(f"is followed by {body['seq']}")
        self.seq = body["seq"]
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.link = hashlib.sha256(self.link + text.encode()).digest()
        if self.link.hex() != claimed:
            self.wrong("its hash does not fit its content and those before it")
            self.link = bytes.fromhex(claimed)  # go on from here: one change, one problem
        self.known = "" if claimed == self.known else self.known
        moved: dict[str, int] = {}
        for name, amount in body["entries"]:
            add(moved, name, amount)
            add(self.balances, name, amount)
        if sum(moved.values()):
            self.wrong(f"its entries sum to {sum(moved.values())}, not to zero")
        charged: dict[str, int] = {}
        for line in body["settlements"]:
            self.line(line)
            for part, amount in line["charges"].items():
                add(charged, f"wallet:{line['account']}", -amount)
                add(charged, part if part[:4] == "tax:" else "income:" + part, amount)
        if body["kind"] != "settlement":
            self.others[self.seq] = moved
        elif moved != charged:
            self.wrong("its entries are not what its lines charge")
        if body["reverses"] is not None:
            undone = self.others.pop(body["reverses"], None)
            if undone is None or moved != {name: -amount for name, amount in undone.items()}:
                self.wrong(f"does not undo transaction {body['reverses']}, or undoes it again")

    def line(self, line: Any) -> None:
        """Prove one settlement line: registers, energy, price."""
        energy, place = dict[str, int](), f"meter {line['meter']}: "
        new = (line["account"], line["service_point"], line["from_utc_ms"]) in self.stays
        self.energy_wh += self.moved(line, line, place, begun=new)
        if sum(line["cells"].values()) != sum(line["advance_wh"]):
            self.wrong(place + "energy was priced that was not settled, or not priced")
        for cell, wh in line["cells"].items():
            add(energy, "energy:" + cell.split("/")[1], wh * self.prices[line["tariff"], cell])
        if fed := line.get("export"):
            price = self.prices.get((line["tariff"], f"{line['facts'][0]}/feed_in"), 0)
            wh = self.moved(line, fed, place + "export: ", begun="EXPORT_BEGUN" in fed["flags"])
            add(energy, "export", -wh * price)
        if energy != {n: a for n, a in line["charges"].items() if n[:6] in ("energy", "export")}:
            self.wrong(place + "its energy is not charged at the price of its rate")

    def moved(self, line: Any, part: Any, place: str, *, begun: bool) -> int:
        """Prove registers from where the line before ended; the Wh that they moved by."""
        began, ended, advance = part["from_wh"], part["to_wh"], part["advance_wh"]
        key = (line["meter"], line["service_point"], line["account"], part is line)
        if min(advance) < 0 or not len(began) == len(ended) == len(advance):
            self.wrong(place + "its registers are not those of one meter, or ran backwards")
        free = REBASING & set(part["flags"]) or (begun and part is not line)
        if [b - a for a, b in zip(began, ended)] != advance and not free:
            self.wrong(place + "its registers moved otherwise than settled, and no flag says why")
        if self.registers.get(key, began) != began and not begun:
            self.wrong(place + "begins at other registers than the line before ended")
        self.registers[key] = ended
        return sum(advance)

    def end(self, record: Any) -> None:
        """Compare the end of the file with what was added up."""
        self.ended = True
        if (record["seq"], record["head"]) != (self.seq, self.link.hex()):
            self.wrong(f"is the last one, the file claims {record['seq']}, {record['head']}")
        for name in sorted(record["balances"].keys() | self.balances.keys()):
            if record["balances"].get(name, 0) != self.balances.get(name, 0):
                self.problems.append(f"the balance of {name} is not the sum of its entries")


def main(path: str = "ledger.jsonl", known: str = "") -> int:
    """Check a file; the exit status."""
    check, number = Check(known.lower()), 0
    try:
        with open(path, encoding="utf-8") as stream:
            for number, text in enumerate(stream, start=1):
                check.take(json.loads(text), number)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        check.problems.append(f"line {number} or the one after it cannot be read: {error!r}")
    if not check.ended:
        check.problems.append(f"the file was cut short after transaction {check.seq}")
    if check.known:
        check.problems.append("the hash that you know is not part of this chain")
    print(f"{check.seq} transactions, {check.energy_wh} Wh, head {check.link.hex()}")
    print("\n".join(check.problems[:100]) or "everything holds")
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
