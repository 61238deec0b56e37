"""RECOVERY in control: no cut for credit, everything else goes on, a manager's word ends it."""

import sqlite3
from pathlib import Path

import pytest

from gateway.core.errors import MeterTimeoutError
from gateway.core.masscut import MassCutLimits
from gateway.core.recovery import KnownHead, RecoveryReason
from gateway.core.requests import (
    Disconnect,
    Recharge,
    Reconnect,
    ReleaseRecovery,
    ReverseTransaction,
    Role,
)
from gateway.core.switching import Alarm
from gateway.store.commands import commands_of, find_outcome
from gateway.store.recovery import (
    enter_recovery,
    last_recovery,
    load_known_head,
    recovery_now,
    standing_recovery,
)
from tests.app.backup_site import remember
from tests.app.control_site import PRICE_NANO, ControlSite

KNOWN = KnownHead(1_000, b"k" * 32)


@pytest.fixture
async def site(tmp_path: Path) -> ControlSite:
    """A flat with 1 kWh worth of credit whose clock and ledger may switch."""
    site = ControlSite(tmp_path)
    site.read(1_000)
    site.sweeper.judge()
    await site.open_flat(1_000 * PRICE_NANO)
    site.engine.gate.chain_verified = True
    return site


async def recovered(site: ControlSite) -> None:
    """The site starts again, and north remembers further than the ledger goes."""
    remember(site, KNOWN)
    site.restart()
    site.engine.gate.chain_verified = True
    site.read(1_000)
    site.sweeper.judge()


def use_up(site: ControlSite) -> None:
    """1.1 kWh more, a reading a minute: the credit is gone."""
    for minute in range(1, 12):
        site.clock.pass_s(60)
        site.sweeper.judge()
        site.read(1_000 + 100 * minute)


def cuts(site: ControlSite) -> int:
    """Switch commands that were decided, on record or in memory."""
    recorded = len(commands_of(site.file.connection, "flat-1"))
    return max(recorded, len(site.engine.commands))


async def test_without_recovery_the_same_reading_cuts(site: ControlSite) -> None:
    """What the other tests rely on: this credit is used up."""
    use_up(site)
    assert len(site.engine.commands) == 1


async def test_nobody_is_cut_for_credit_in_recovery_and_after_the_release_they_are(
    site: ControlSite,
) -> None:
    """The reason stands, the charge is counted, the switch waits for a manager."""
    await recovered(site)
    use_up(site)
    point = site.engine.points[0]
    assert point.available_nano < 0
    assert point.supply.wants(site.clock.mono_ns()) is False
    assert cuts(site) == 0
    await site.do(ReleaseRecovery("receipts compared"), key="release")
    assert standing_recovery(site.file.connection) is None
    assert len(site.engine.commands) == 1


async def test_points_that_fell_due_meanwhile_do_not_halt_all_cuts(site: ControlSite) -> None:
    """They were not going to be cut: the breaker's halt is for what would be."""
    await recovered(site)
    site.engine.breaker.limits = MassCutLimits(halt_min_points=1)
    use_up(site)
    assert not site.engine.breaker.halted


async def test_a_cut_by_hand_goes_on(site: ControlSite) -> None:
    """A person's word with a reason does not depend on the ledger's age."""
    await recovered(site)
    await site.do(Disconnect("flat-1", "works on the riser"))
    assert site.engine.commands[0].close is False


async def test_an_output_that_an_older_ledger_knows_nothing_of_is_not_closed(
    site: ControlSite,
) -> None:
    """It may have been opened by hand for works, on record in what is lost: a person closes it."""
    remember(site, KNOWN)
    site.restart()
    site.engine.gate.chain_verified = True
    site.engine.on_failure(0, MeterTimeoutError("not reached at the start"))
    site.read(1_000, closed=False)
    site.sweeper.judge()
    site.clock.pass_s(120)
    site.read(1_000, closed=False)
    await site.sweeper.sweep()
    assert not site.engine.commands
    assert site.engine.points[0].supply.alarms == {Alarm.OUTPUT_DIFFERS}
    await site.do(ReleaseRecovery("compared"), key="release")
    site.restart()
    site.engine.gate.chain_verified = True
    site.read(1_000, closed=False)
    assert not site.engine.commands
    await site.do(Reconnect("flat-1"))
    assert site.engine.commands[0].close is True


async def test_recovery_outlives_a_restart_and_the_same_loss_is_not_told_twice(
    site: ControlSite,
) -> None:
    """It stands on file until released, and what north still remembers does not bring it back."""
    await recovered(site)
    standing = site.engine.gate.recovery
    assert standing is not None
    assert (standing.reason, standing.known) == (RecoveryReason.OLDER, KNOWN)
    site.restart()
    assert site.engine.gate.recovery == standing
    await site.do(ReleaseRecovery("compared"), key="release")
    site.restart()
    assert site.engine.gate.recovery is None


async def test_only_a_manager_releases_and_only_what_stands(site: ControlSite) -> None:
    """Another role, no reason, no RECOVERY: refused, and on record."""
    await site.do(ReleaseRecovery("nothing to release"), key="none")
    await recovered(site)
    await site.do(ReleaseRecovery("I am the operator"), Role.OPERATOR, key="role")
    await site.do(ReleaseRecovery(""), key="silent")
    codes = []
    for key in ("none", "role", "silent"):
        outcome = find_outcome(site.file.connection, key)
        assert outcome is not None
        codes.append(outcome.code)
    assert codes == ["NO_RECOVERY", "FORBIDDEN", "REASON_MISSING"]
    assert site.engine.gate.recovery is not None


async def test_a_head_that_the_ledger_contains_is_no_loss(site: ControlSite) -> None:
    """North that is a little behind is as it should be."""
    row = site.file.connection.execute("SELECT seq, hash FROM ledger_transaction").fetchone()
    remember(site, KnownHead(*row))
    site.restart()
    assert site.engine.gate.recovery is None


async def test_a_reversal_from_before_the_restore_reverses_nothing_else(site: ControlSite) -> None:
    """Its number belongs to another transaction now; one below the backup's end is the same."""
    await site.do(Recharge("flat-1", 5_000), key="first")
    connection = site.file.connection
    first = connection.execute("SELECT max(seq) FROM ledger_transaction").fetchone()[0]
    site.clock.pass_s(60)
    since = site.clock.utc_ms()
    entered = recovery_now(connection, RecoveryReason.RESTORED, utc_ms=since)
    enter_recovery(connection, entered)
    assert last_recovery(connection) == entered
    await site.do(Recharge("flat-1", 7_000), key="second")
    site.clock.wall_ms -= 30_000
    await site.do(ReverseTransaction(first + 1, "typed wrongly"), key="renumbered")
    await site.do(ReverseTransaction(first, "typed wrongly"), key="same")
    site.clock.wall_ms += 60_000
    await site.do(ReverseTransaction(first + 1, "typed wrongly"), key="later")
    found = [find_outcome(connection, key) for key in ("renumbered", "same", "later")]
    assert [outcome.code if outcome else None for outcome in found] == ["RENUMBERED", "", ""]


@pytest.mark.parametrize(
    "row",
    [
        (1, "x", b"h" * 32),
        (1, 7, b"h" * 31),
        (1, 7, "h" * 32),
        (1, -7, b"h" * 32),
        (1, None, None),
        (2, 7, b"h" * 32),
    ],
)
def test_a_row_that_is_no_head_tells_nothing(row: tuple[object, ...]) -> None:
    """Control trusts no type in north's file."""
    hostile = sqlite3.connect(":memory:")
    hostile.execute("CREATE TABLE ledger_head (id, seq, hash)")
    hostile.execute("INSERT INTO ledger_head VALUES (?, ?, ?)", row)
    assert load_known_head(hostile) is None
    hostile.close()
