"""The credit lease: what is accepted, when it ends supply, and its two copies."""

from node import lease
from tests.firmware.same.memory import CutError, MemoryBoard
from tests.firmware.same.tools import refused

ARGS = {
    "epoch": "01JD9X3T5R8W2M4Q6Z7Y0V1B3N",
    "seq": 7,
    "cutoff_wh": 1_000,
    "expires": 500,
    "policy": "hold",
    "grace_wh": 50,
    "limit_w": 0,
    "emergency_limit_w": 0,
}


def granted(**changed):
    """A lease with some arguments changed, come at second 100."""
    args = dict(ARGS)
    args.update(changed)
    return lease.parse(args, 100)


def test_what_is_no_lease_is_refused_by_name():
    """Every argument is needed, within its limits, and nothing else."""
    for key in ARGS:
        args = dict(ARGS)
        del args[key]
        assert str(refused(ValueError, lease.parse, args, 0)) == key
    for key, value in (
        ("seq", 0),
        ("seq", True),
        ("seq", 1.0),
        ("cutoff_wh", -1),
        ("cutoff_wh", 1 << 31),
        ("policy", "open "),
        ("epoch", ""),
        ("epoch", "x" * 27),
        ("epoch", "a\0"),
        ("limit_w", 100_001),
        ("emergency_wh", -1),
        ("emergency_wh", None),
    ):
        args = dict(ARGS)
        args[key] = value
        assert str(refused(ValueError, lease.parse, args, 0)) == key
    args = dict(ARGS)
    args["more"] = 1
    refused(ValueError, lease.parse, args, 0)


def test_only_a_newer_lease_replaces():
    """A greater sequence of the same store, or another store's."""
    old = granted()
    assert granted().replaces(None)
    assert not granted().replaces(old)
    assert not granted(seq=6).replaces(old)
    assert granted(seq=8).replaces(old)
    assert granted(epoch="other", seq=1).replaces(old)


def test_it_ends_supply_at_its_cutoff():
    """Exactly there, and by no policy before it expires."""
    for policy in lease.POLICIES:
        assert granted(policy=policy).reason(999, False) is None
        assert granted(policy=policy).reason(1_000, False) == "lease"


def test_what_follows_its_expiry():
    """hold: the cut-off stays; grace: so much later; open: at once."""
    assert granted(policy="hold").reason(999, True) is None
    assert granted(policy="hold").reason(1_000, True) == "lease"
    assert granted(policy="grace").reason(1_049, True) is None
    assert granted(policy="grace").reason(1_050, True) == "lease"
    assert granted(policy="open").reason(0, True) == "expired"


def test_the_lower_limit_holds_from_the_counter_of_emergency_credit_on():
    """0 is no limit; an unknown counter is none of emergency credit; each limit may stand alone."""
    both = granted(limit_w=3_000, emergency_limit_w=1_000, emergency_wh=900)
    for total_wh, limit_w in ((None, 3_000), (0, 3_000), (899, 3_000), (900, 1_000)):
        assert both.limit_at(total_wh) == limit_w
    alone = granted(emergency_limit_w=1_000, emergency_wh=900)
    assert [alone.limit_at(total_wh) for total_wh in (899, 900)] == [0, 1_000]
    for changed in ({"limit_w": 500, "emergency_limit_w": 1_000}, {"limit_w": 500}):
        assert granted(emergency_wh=900, **changed).limit_at(1_000) == 500
    assert granted(limit_w=500, emergency_limit_w=100).limit_at(1_000_000) == 500
    assert granted().limit_at(1_000_000) == 0


def test_a_lease_without_emergency_credit_is_kept_as_older_versions_kept_it():
    """60 bytes of version 1, read by both; with it 64 of version 2, and nothing is lost."""
    old = granted(limit_w=3_000).pack()
    assert (len(old), old[0]) == (60, 1)
    assert lease.unpack(old).limit_w == 3_000
    assert lease.unpack(old).emergency_wh == 0
    new = granted(emergency_limit_w=1_000, emergency_wh=900).pack()
    assert (len(new), new[0]) == (64, 2)
    found = lease.unpack(new)
    assert (found.emergency_wh, found.emergency_limit_w, found.granted_s) == (900, 1_000, 100)
    assert found.pack() == new


def test_its_expiry_needs_a_clock_or_enough_uptime():
    """With an unset clock it is no earlier than when the lease came, and the uptime later."""
    assert not granted().has_expired(499, 0)
    assert granted().has_expired(500, 0)
    assert not granted().has_expired(0, 399)
    assert granted().has_expired(0, 400)
    assert not lease.parse(ARGS, 0).has_expired(0, 1_000_000)
    assert not granted(expires=0).has_expired(1_000_000, 0)


def test_either_copy_is_enough_and_makes_the_other_good():
    """NVS or file, damaged or gone."""
    board = MemoryBoard()
    assert lease.load(board, "/lease") is None
    lease.keep(granted(), board, "/lease")
    for spoilt in (None, b"", b"x" * 62, granted(seq=1).pack()[:-1]):
        board.nvs["lease"] = spoilt
        assert lease.load(board, "/lease").seq == 7
        assert lease.unpack(board.nvs["lease"]).seq == 7
        board.files.contents["/lease"] = spoilt or b""
        assert lease.load(board, "/lease").seq == 7
        assert lease.unpack(board.files.contents["/lease"]).seq == 7


def test_a_cut_while_keeping_leaves_the_old_or_the_new():
    """At every write."""
    for writes_left in range(6):
        board = MemoryBoard()
        lease.keep(granted(), board, "/lease")
        board.writes_left = writes_left
        cut = False
        try:
            lease.keep(granted(seq=8), board, "/lease")
        except CutError:
            cut = True
        board = board.after_power_loss()
        found = lease.load(board, "/lease").seq
        assert found == (7 if writes_left < 2 else 8)
        assert lease.unpack(board.files.contents["/lease"]).seq == found
        assert cut == (writes_left < 5)
