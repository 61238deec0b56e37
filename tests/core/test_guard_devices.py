"""Whose counter the register guard goes on from, and what a power cut takes back of a node's."""

import json

from gateway.core.guard import GuardEvent, RegisterGuard, VerdictKind
from tests.core.test_guard import NS, Meter

HOUR = 3_600 * NS


def test_no_counter_goes_on_from_another_devices() -> None:
    """Plausible or not, across a restart too, until a person gave both counters."""
    meter = Meter(1_000)
    meter.guard.device = "node-b"
    assert meter.read(1_002).events == (GuardEvent.REGISTER_HELD,)
    kept = json.loads(json.dumps(meter.guard.snapshot()))
    meter.guard.restore(kept, mono_ns=meter.mono_ns)
    assert meter.read(1_003).kind is VerdictKind.HELD
    assert not meter.guard.is_own
    assert meter.guard.replace((1_001,), (1_003,)) == (1,)
    assert meter.guard.owner == "node-b"
    assert meter.read(1_004).advance_wh == (1,)


def test_an_exchange_before_the_other_device_is_heard_takes_whichever_comes() -> None:
    """The opening is given, the name is not known yet; from its first reading on it is."""
    meter = Meter(1_000)
    assert meter.guard.replace((1_000,), (50,)) == (0,)
    assert (meter.guard.owner, meter.guard.is_own) == (None, False)
    meter.guard.device = "node-b"
    assert meter.read(53).advance_wh == (3,)
    assert (meter.guard.owner, meter.guard.is_own) == ("node-b", True)


def test_a_device_that_counted_elsewhere_meanwhile_is_another_one() -> None:
    """Also where the machine was off and the base of before comes back with the first reading."""
    meter = Meter()
    meter.guard.device = "node-a"
    assert meter.read(1_000).kind is VerdictKind.BASELINE
    slept = meter.guard.snapshot()
    meter.guard.disown()
    meter.guard.restore(slept, mono_ns=0)
    assert meter.read(1_001).kind is VerdictKind.HELD


def test_a_hold_follows_the_device_that_is_read_now() -> None:
    """What one device showed is no word about the next."""
    meter = Meter(1_000)
    meter.read(900_000)
    assert meter.guard.held_wh == (899_000,)
    meter.guard.device = "node-b"
    meter.read(1_020)
    assert meter.guard.held_wh == (20,)
    assert meter.guard.release(accept=False) == (0,)
    assert meter.guard.owner == "node-b"


def test_a_state_of_before_devices_were_told_apart_goes_on() -> None:
    """An older version kept no device: the first one that is read is it."""
    kept = Meter(1_000).guard.snapshot()
    del kept["device"], kept["held_device"]
    meter = Meter()
    meter.guard.restore(kept, mono_ns=0)
    meter.sequence = 1
    meter.guard.device = "node-a"
    # Its lease goes on too, also if this program starts once more before that.
    assert meter.guard.is_own
    meter.guard.restore(meter.guard.snapshot(), mono_ns=0)
    assert meter.guard.is_own
    assert meter.read(1_002).advance_wh == (2,)
    assert meter.guard.owner == "node-a"


def test_what_an_older_version_kept_is_of_the_device_before_an_exchange() -> None:
    """Approved in place of it before anything was read, another one's counter is held."""
    kept = Meter(1_000).guard.snapshot()
    del kept["device"], kept["held_device"]
    meter = Meter()
    meter.guard.restore(kept, mono_ns=0)
    meter.sequence = 1
    meter.guard.read_from("node-a")
    owned = [meter.guard.is_own]
    meter.guard.read_from("node-b")
    assert [*owned, meter.guard.is_own] == [True, False]
    assert meter.read(1_002).kind is VerdictKind.HELD


def test_a_counter_that_folds_its_resets_never_begins_anew_by_itself() -> None:
    """A node whose memory is gone shows its module's counter: whose energy that is, a person says.
    What a power cut can take back of it is no question."""
    guard = RegisterGuard(p_max_w=5_000, nvm_interval_s=360, folds=True)
    guard.check(1, 0, [90_000])
    guard.disturbed()
    guard.check(2, HOUR, [89_501])
    verdict = guard.check(3, HOUR + NS, [89_501])
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.REGRESSION, (0,))
    guard.disturbed()
    guard.check(4, 2 * HOUR, [20])
    assert guard.check(5, 2 * HOUR + NS, [20]).kind is VerdictKind.HELD
    other = RegisterGuard(p_max_w=5_000, nvm_interval_s=360)
    other.check(1, 0, [90_000])
    other.check(2, HOUR, [20])
    assert other.check(3, HOUR + NS, [20]).kind is VerdictKind.RESET
