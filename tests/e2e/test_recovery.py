"""Backup while everything runs, restore, RECOVERY: nobody is cut until a manager has looked."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_site import Gateway, closing

pytestmark = pytest.mark.slow

WORDS = "receipts compared"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Gateway]:
    """Two flats that draw 1 kW and have 50 each."""
    with closing(Gateway(tmp_path, meters=2)) as gateway:
        gateway.start()
        yield gateway


def meters_of(site: Gateway) -> tuple[str, str]:
    """The ids of both meters."""
    first, second = (str(row["id"]) for row in site.ask("list")["meters"])
    return first, second


def posted(site: Gateway, account: str) -> str:
    """The posted balance, as the API shows it."""
    return str(site.call("GET", f"/accounts/{account}")["balance"])


def command(site: Gateway, *words: str) -> dict[str, Any]:
    """A command with --json that must succeed."""
    answer = site.cli(*words, "--json")
    assert answer.returncode == 0, f"{answer.stdout}{answer.stderr}"
    return dict(json.loads(answer.stdout))


def restart(site: Gateway) -> None:
    """Both processes, and every meter read."""
    site.start_process("control")
    site.start_process("north")
    site.ready()


def used_up(site: Gateway, meter: str, power_w: float) -> None:
    """Draw until the credit of a meter is gone."""
    site.load(power_w, meter)
    site.until(lambda: site.row(meter).available_nano < 0, "the end of the credit")


def test_restore_of_an_older_backup_loses_no_recharge_and_cuts_nobody(site: Gateway) -> None:
    """Recharges after the backup come back by their keys; the cut waits for the release."""
    one, two = meters_of(site)
    site.open(one, "5.00")
    site.open(two, "0.05")
    site.recharge(one, "20.00", "r-1")
    target = site.directory / "backups"
    target.mkdir()
    backup = command(site, "backup", str(target))
    assert backup["transactions"] >= 3
    site.recharge(one, "7.00", "r-2")
    before = posted(site, one)
    assert site.stop("control") == 0
    assert site.stop("north") == 0

    refused = site.cli("restore", backup["file"])
    assert refused.returncode == 1
    assert "BACKUP_OLDER" in refused.stderr
    done = command(site, "restore", backup["file"], "--older")
    assert done["lost_transactions"] >= 1
    assert (done["north"], done["requests_to_replay"]) == ("kept", 1)

    restart(site)
    site.until(lambda: site.outcome("r-2") == "executed", "the replayed recharge")
    assert posted(site, one) == before
    shown = command(site, "recovery", "show")
    assert shown["standing"]["reason"] == "restored"
    assert shown["requests"] == {"executed": 1}
    assert command(site, "status")["recovery"]["reason"] == "restored"
    used_up(site, two, 6_000)
    time.sleep(2)
    assert site.cuts(two) == []
    assert len(site.events("RECOVERY_ENTERED")) >= 1

    site.call("POST", "/recovery/release", {"reason": WORDS}, "release-1")
    assert site.finished_cut(two).reason == "CREDIT"
    assert len(site.events("RECOVERY_RELEASED")) == 1
    again = site.cli("recovery", "release", "--reason", WORDS)
    assert "NO_RECOVERY" in again.stderr
    site.verify()


def test_an_older_ledger_put_back_by_hand_is_noticed(site: Gateway) -> None:
    """North remembers further than the file goes: RECOVERY, and it stands after a restart."""
    one, _ = meters_of(site)
    site.open(one, "5.00")
    assert site.stop("control") == 0
    kept = site.directory / "older.db"
    shutil.copyfile(site.paths.ledger, kept)
    site.start_process("control")
    site.ready()
    site.recharge(one, "20.00", "r-1")
    time.sleep(2.5)  # north writes down how far the ledger went a second after an outcome
    assert site.stop("control") == 0
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (site.paths.control_dir / name).unlink()
    shutil.copyfile(kept, site.paths.ledger)

    site.start_process("control")
    site.ready()
    standing = command(site, "recovery", "show")["standing"]
    assert standing["reason"] == "older_than_known"
    assert standing["known_transactions"] > standing["ledger_transactions"]
    site.until(lambda: site.outcome("r-1") == "executed", "the replayed recharge")
    assert site.stop("control") == 0
    site.start_process("control")
    site.ready()
    assert command(site, "recovery", "show")["standing"] == standing
    site.call("POST", "/recovery/release", {"reason": WORDS}, "release-1")
    assert site.stop("control") == 0
    site.start_process("control")
    site.ready()
    assert command(site, "recovery", "show")["standing"] is None


def test_status_and_doctor_tell_how_the_site_is(site: Gateway) -> None:
    """Both with everything running, with a dead meter, and with north gone."""
    one, two = meters_of(site)
    site.open(one, "5.00")
    status = command(site, "status")
    assert (status["control"], status["meters"], status["recovery"]) == (
        "present",
        {"good": 2},
        None,
    )
    assert status["ledger"]["open_accounts"] == 1
    found = command(site, "doctor", "--meters", "all")["findings"]
    assert [item for item in found if item["verdict"] == "problem"] == []
    assert any(f"2 answer and will switch: {one}, {two}" in item["sentence"] for item in found)

    site.ask("fault", two, kind="refused")
    away = site.until(lambda: command(site, "status")["meters"].get("away"), "a meter away")
    assert away == 1
    ill = site.cli("doctor", "--meters", "all", "--json")
    assert ill.returncode == 1
    problems = [f for f in json.loads(ill.stdout)["findings"] if f["verdict"] == "problem"]
    assert len(problems) == 1
    assert problems[0]["sentence"].startswith(f"{two} at 127.20.")
    assert "does not answer" in problems[0]["sentence"]

    assert site.stop("north") == 0
    alone = site.cli("status", "--json")
    assert alone.returncode == 1
    assert "north is away" in alone.stderr
    status = json.loads(alone.stdout)
    assert (status["control"], status["north_since"]) == ("present", None)
    assert status["ledger"]["open_accounts"] == 1
