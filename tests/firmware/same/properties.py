"""Properties of the firmware's pure parts: what holds for every case.

Each function takes one case (JSON), asserts what must hold, and returns an outcome (JSON).
hypothesis makes the cases on CPython (cases.py); the same cases are replayed in MicroPython, where
every outcome must be the same.
"""

import json

from node import frames, guard, lease, packets, pzem, records, sealed, settings, trips
from node.relay import REASONS, Relay
from node.spool import Spool
from tests.firmware.same.memory import CutError, MemoryBoard

SECRET = bytes(range(32))


def frame(case):
    """A reply is the values that went in, or has one of the known codes; nothing else is raised."""
    request = frames.read_all(case["address"])
    reply = bytes.fromhex(case["reply"])
    try:
        found = frames.check(request, reply)
    except frames.FrameError as error:
        return error.code
    assert reply == frames.seal(reply[:-2])
    assert len(found) == 10
    values = frames.Values(found)
    return [list(found), values.energy_wh, frames.implausible(values, 100_000)]


def guarded(case):
    """The total never goes back nor grows by more than the installation can take, and by much only
    at a counter that came twice; a kept state goes on like the one in memory, but for what only the
    monotonic clock knew.
    """
    watch = guard.Guard(case["p_max_w"])
    now_s, path, allowed_wh, last_wh = 0, [], 0, None
    for elapsed_s, counter_wh, unix_s in case["steps"]:
        now_s += elapsed_s
        before = None if watch.last_wh is None else watch.total_wh
        verdict, event = watch.check(counter_wh, now_s, unix_s)
        allowed_wh += case["p_max_w"] * (elapsed_s + 1) // 2_400 + 3
        if verdict != guard.GOOD:
            assert watch.total_wh == (before or 0)
        elif before is None:
            start_wh, allowed_wh = watch.total_wh, 0
            assert last_wh is not None
        else:
            assert watch.total_wh >= before
            assert watch.total_wh - start_wh <= allowed_wh
            if watch.total_wh - before > case["p_max_w"] // 200:
                assert 0 <= counter_wh - last_wh <= case["p_max_w"] * (elapsed_s + 1) // 2_400 + 2
        last_wh = counter_wh
        again = guard.Guard(case["p_max_w"])
        assert again.unpack(watch.pack())
        assert (again.total_wh, again.held_wh) == (watch.total_wh, watch.held_wh)
        path.append([verdict, event, watch.total_wh])
    return path


def leased(case):
    """A lease survives its kept form; damage is found; doubt about time never expires it."""
    try:
        granted = lease.parse(case["args"], case["granted_s"])
    except ValueError as error:
        return str(error)
    kept = granted.pack()
    again = lease.unpack(kept)
    assert again.pack() == kept
    spoilt = bytearray(kept)
    spoilt[case["spoil"] % len(kept)] ^= 1 << case["spoil"] % 8
    assert lease.unpack(bytes(spoilt)) is None
    unset = granted.has_expired(0, case["uptime_s"])
    if unset:
        assert granted.expires <= granted.granted_s + case["uptime_s"]
    expired = granted.has_expired(case["unix_s"], case["uptime_s"])
    reason = again.reason(case["total_wh"], expired)
    if case["total_wh"] < granted.cutoff_wh and granted.policy != "open":
        assert reason is None
    limit_w = again.limit_at(case["total_wh"])
    assert limit_w in (0, granted.limit_w, granted.emergency_limit_w)
    if case["total_wh"] < granted.emergency_wh:
        assert limit_w == granted.limit_w
    return [expired, unset, reason, again.epoch, again.seq, limit_w]


def recorded(case):
    """A record survives; one flipped bit is found."""
    kept = records.pack(case["fields"])
    assert len(kept) == records.SIZE
    assert records.unpack(kept) == case["fields"]
    spoilt = bytearray(kept)
    spoilt[case["spoil"] % records.SIZE] ^= 1 << case["spoil"] % 8
    assert records.unpack(bytes(spoilt)) is None
    return kept.hex()


class _Model:
    """What a spool must hold: confirmed records that are neither acknowledged nor overwritten."""

    def __init__(self):
        self.held = []
        self.doubtful = None  # the record that a cut tore, or not

    def settle(self, seen):
        """Learn from the spool whether the record under way at a cut is there."""
        if self.doubtful is not None and self.doubtful in seen:
            self.held.append(self.doubtful)
        self.doubtful = None


def spooled(case):
    """Whatever is cut where: confirmed records come out once each, oldest first, until the ack."""
    board, model = MemoryBoard(), _Model()
    spool = Spool(board.files, "/s", case["files"])
    spool.open(lambda: None)
    path = []
    for step, amount in case["steps"]:
        board.writes_left = None
        if step == "append":
            for _ in range(amount):
                seq = spool.next_seq
                lost = spool.append([0, 7, 0, seq, seq * 2, 2_300, 1, 2, 3, 4])
                model.held.append(seq)
                if lost:
                    model.held = [held for held in model.held if held > lost[1]]
        elif step == "send":
            _send(spool, model, acknowledge=bool(amount & 1))
        else:
            _cut(board, spool, model, amount)
            board = board.after_power_loss()
            spool = Spool(board.files, "/s", case["files"])
            spool.open(lambda: None)
            model.settle([spool.next_seq - 1])
        assert spool.waiting <= spool.capacity
        path.append([spool.next_seq, spool.acknowledged_seq, spool.lost])
    while model.held:
        _send(spool, model, acknowledge=True)
    assert spool.oldest() is None
    return path


def _send(spool, model, acknowledge):
    found = spool.oldest()
    if found is None:
        assert not model.held
        return
    segment, out = found
    seqs = [fields[0] for fields in out]
    assert seqs == model.held[: len(seqs)]
    assert len(seqs) <= 64
    assert all(fields[3] == fields[0] and fields[4] == fields[0] * 2 for fields in out)
    assert not spool.acknowledge(segment + 1)
    if acknowledge:
        assert spool.acknowledge(segment) or not found
        model.held = model.held[len(seqs) :]


def _cut(board, spool, model, writes_left):
    """Append until the power goes, after so many writes."""
    board.writes_left = writes_left
    try:
        while True:
            seq = spool.next_seq
            model.doubtful = seq
            lost = spool.append([0, 7, 0, seq, seq * 2, 2_300, 1, 2, 3, 4])
            model.held.append(seq)
            if lost:
                model.held = [held for held in model.held if held > lost[1]]
    except CutError:
        # A full ring: the torn record lies where the oldest one was.
        model.held = [held for held in model.held if held > seq - spool.capacity]


def published(case):
    """A PUBLISH comes out as it went in; any other body is an error of its own kind."""
    payload = bytes.fromhex(case["payload"])
    sent = packets.publish(case["topic"], payload, 1, case["retain"], case["packet_id"])
    digits, length = b"", None
    while length is None:
        digits += sent[1 + len(digits) : 2 + len(digits)]
        length = packets.read_length(digits)
    body = sent[1 + len(digits) :]
    assert length == len(body)
    read = packets.read_publish(sent[0] & 15, body)
    assert read == (case["topic"], payload, case["packet_id"], case["retain"])
    try:
        topic, rest, packet_id, retained = packets.read_publish(
            case["flags"], bytes.fromhex(case["body"])
        )
    except packets.PacketError as error:
        return [sent.hex(), str(error)]
    return [sent.hex(), topic, rest.hex(), packet_id, retained]


def commanded(case):
    """A command is carried out once, and only sealed, for this device, session and time."""
    seal = sealed.Seal(SECRET, "node-1", "s1")
    outcomes = []
    for message, retained, now_s in case["messages"]:
        before = seal.last_seq
        try:
            body = seal.open(message.encode(), retained, now_s)
        except sealed.RefusedError as error:
            outcomes.append([error.code, error.body and error.body["id"]])
            continue
        envelope = json.loads(message)
        mac = sealed.hmac_sha256(sealed.derive(SECRET, "command 1"), envelope["body"].encode())
        assert envelope["mac"] == mac.hex()
        assert body["device"] == "node-1"
        assert body["session"] == "s1"
        assert not retained
        assert body["seq"] > before
        assert body["type"] == "time" or not body["expires"] or 0 < now_s < body["expires"]
        outcomes.append(["DONE", body["id"]])
    return outcomes


def mac(case):
    """HMAC-SHA256 of any key and message, and the comparison of two of them."""
    key, message = bytes.fromhex(case["key"]), bytes.fromhex(case["message"])
    code = sealed.hmac_sha256(key, message)
    assert sealed.equal(code, bytes(code))
    assert not sealed.equal(code, code[:-1])
    assert not sealed.equal(code, code[:-1] + bytes((code[-1] ^ 1,)))
    return [code.hex(), sealed.portal_password(key), sealed.mqtt_password(key)]


def relayed(case):
    """A cut at any write leaves the relay as before the change or after it, for good.

    A pin that has moved is never moved back.
    """
    board = MemoryBoard()
    board.pin = case["closed_at_first"]
    board.nvs_is_eager = case["nvs_is_eager"]
    relay = Relay(board)
    path = []
    for add, names, cut, again, power_loss in case["steps"]:
        before = relay.reasons
        after = [n for n in REASONS if n in before or n in names]
        if not add:
            after = [n for n in before if n not in names]
        board.writes_left = cut
        try:
            if add:
                for name in names:
                    relay.add(name)
            else:
                relay.clear(*names)
        except CutError:
            moved = board.pin != (not before)
            board = _restart(board, power_loss, again)
            relay = Relay(board)
            assert not moved or relay.closed == (not after)
        board.writes_left = None
        between = [n for n in REASONS if (n in before) != (n in after)]
        assert all((n in relay.reasons) == (n in before) or n in between for n in REASONS)
        if cut is None:
            assert relay.reasons == after
        assert relay.closed == (not relay.reasons) == board.pin
        if bool(before) == bool(after):
            assert relay.closed == (not before)
        for lost in (False, True, False):
            board = board.after_power_loss() if lost else board.after_reset()
            kept, relay = relay.reasons, Relay(board)
            assert relay.reasons == kept
            assert board.moves == 0
        path.append([relay.reasons, relay.failed])
    return path


def _restart(board, power_loss, again):
    """Restart after a cut; the power goes once more after `again` writes of the start."""
    board = board.after_power_loss() if power_loss else board.after_reset()
    board.writes_left = again
    try:
        Relay(board)
    except CutError:
        return board.after_power_loss() if power_loss else board.after_reset()
    board.writes_left = None
    return board


def tripped(case):
    """A trip needs a value bad for all of its delay; what is open stays so for all of its hold."""
    rules = trips.Trips(settings.changed(settings.defaults(), case["settings"]))
    now_s, path, bad_since, opened_s = 0, [], None, None
    for elapsed_s, power_dw in case["steps"]:
        now_s += elapsed_s
        was_open = rules.overload.open
        new = rules.check(now_s, power_dw, None)
        if power_dw is None or power_dw <= rules.overload.high or was_open:
            bad_since = None
        elif bad_since is None:
            bad_since = now_s
        if new:
            assert now_s - bad_since >= rules.overload.delay_s
            opened_s = now_s
        if was_open and not rules.overload.open:
            assert now_s - opened_s >= rules.overload.hold_s
        path.append([new, rules.reasons, rules.overload.locked])
    return path


def configured(case):
    """Settings are always whole and within limits, whatever is sent or was kept."""
    try:
        found = settings.changed(settings.defaults(), case["changes"])
    except ValueError as error:
        found = str(error)
    else:
        assert settings.read(settings.write(found)) == (found, [])
    kept, left_out = settings.read(json.dumps(case["changes"]))
    for key, (_, low, high) in settings.NUMBERS.items():
        assert low <= kept[key] <= high
    assert len(kept) == len(settings.NUMBERS) + 1
    return [found if isinstance(found, str) else None, kept, sorted(left_out)]


def healthy(case):
    """A module is silent after nine failed tries in a row, and back with the first good one."""
    module, row, path = pzem.Module(1), 0, []
    for good in case["tries"]:
        row = 0 if good else row + 1
        if good:
            was_silent = module.silent
            assert module.succeeded(None) == was_silent
        else:
            module.failed("CRC")
        assert module.silent == (row >= 9)
        path.append(module.silent)
    return path
