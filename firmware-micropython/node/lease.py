"""The credit lease: up to which folded Wh there is supply without the gateway.

Pure. No money: the gateway grants an absolute cut-off for the folded counter, an expiry, and what
happens at it: `hold` keeps the cut-off, `grace` moves it on by `grace_wh`, `open` opens the relay.
"""

import binascii
import struct

from node.port import const

POLICIES = ("hold", "grace", "open")
# By version: 2 has `emergency_wh` behind the rest. A lease without it is kept as ever, so that
# an older version that comes back finds it.
_FORMS = {1: "<BB26sIIIIIII", 2: "<BB26sIIIIIIII"}
_MOST = const(0x7FFFFFFF)
_EPOCH_BYTES = const(26)  # a ULID

# name, lowest, highest; all of them whole numbers that a command must give, but for the last.
_NUMBERS = (
    ("seq", 1, _MOST),
    ("cutoff_wh", 0, _MOST),
    ("expires", 0, _MOST),
    ("grace_wh", 0, _MOST),
    ("limit_w", 0, 100_000),
    ("emergency_limit_w", 0, 100_000),
    ("emergency_wh", 0, _MOST),
)


class Lease:
    """A lease as granted. `expires` 0: never. Limits in W, 0: none beside the node's own; the
    emergency limit holds from the counter `emergency_wh` on (0: at none).

    `epoch` names the gateway's store; `numbers` are those of `_NUMBERS`, in that order.

    `granted_s` is the wall time at which it came, 0 when that was not known.
    """

    def __init__(self, epoch, numbers, policy, granted_s):
        (
            self.seq,
            self.cutoff_wh,
            self.expires,
            self.grace_wh,
            self.limit_w,
            self.emergency_limit_w,
            self.emergency_wh,
        ) = numbers
        self.epoch = epoch
        self.policy = policy
        self.granted_s = granted_s

    def replaces(self, old):
        """Whether it may follow `old` (None: the first): a greater sequence, or another epoch.

        Another epoch is a restored gateway; that it is no replay is the command's seal to show.
        """
        return old is None or self.epoch != old.epoch or self.seq > old.seq

    def has_expired(self, unix_s, uptime_s):
        """Whether it has. With an unset clock (0) it is now at least `granted_s` + uptime."""
        if not self.expires:
            return False
        if not unix_s:
            if not self.granted_s:
                return False
            unix_s = self.granted_s + uptime_s
        return unix_s >= self.expires

    def reason(self, total_wh, expired):
        """Why supply ends now: "lease", "expired" or None, at a good folded counter.

        A counter in doubt is not asked about: doubt never cuts.
        """
        if expired and self.policy == "open":
            return "expired"
        grace_wh = self.grace_wh if expired and self.policy == "grace" else 0
        return "lease" if total_wh >= self.cutoff_wh + grace_wh else None

    def limit_at(self, total_wh):
        """The limit in W of a node that is alone, at its last good folded counter; 0: none.

        Before the first counter (None) no emergency credit is known to be in use.
        """
        limits = [self.limit_w] if self.limit_w else []
        in_use = self.emergency_wh and total_wh is not None and total_wh >= self.emergency_wh
        if in_use and self.emergency_limit_w:
            limits.append(self.emergency_limit_w)
        return min(limits) if limits else 0

    def pack(self):
        """The lease as bytes with CRC; one such copy lies in NVS, one in a file."""
        version = 2 if self.emergency_wh else 1
        more = (self.emergency_wh,) if self.emergency_wh else ()
        body = struct.pack(
            _FORMS[version],
            version,
            POLICIES.index(self.policy),
            self.epoch.encode(),
            self.seq,
            self.cutoff_wh,
            self.expires,
            self.grace_wh,
            self.limit_w,
            self.emergency_limit_w,
            self.granted_s,
            *more,
        )
        return body + struct.pack("<I", binascii.crc32(body))


def parse(args, granted_s):
    """The lease of a command's arguments. Raises ValueError naming what is wrong."""
    epoch = args.get("epoch")
    if type(epoch) is not str or not 0 < len(epoch.encode()) <= _EPOCH_BYTES or "\0" in epoch:
        raise ValueError("epoch")
    numbers = []
    for name, low, high in _NUMBERS:
        value = args.get(name, 0 if name == "emergency_wh" else None)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(name)
        numbers.append(value)
    if args.get("policy") not in POLICIES:
        raise ValueError("policy")
    if len(args) != len(_NUMBERS) + ("emergency_wh" in args) + 1:
        raise ValueError("unknown argument")
    return Lease(epoch, numbers, args["policy"], granted_s)


def unpack(kept):
    """The lease of one kept copy, or None when it is absent or damaged."""
    form = _FORMS.get(kept[0]) if kept else None
    if not form:
        return None
    size = struct.calcsize(form)
    if len(kept) != size + 4 or kept[1] >= len(POLICIES):
        return None
    if struct.unpack_from("<I", kept, size)[0] != binascii.crc32(kept[:size]):
        return None
    fields = struct.unpack_from(form, kept)
    epoch = fields[2].rstrip(b"\0").decode()
    numbers = fields[3:9] + (fields[10:] or (0,))
    return Lease(epoch, numbers, POLICIES[fields[1]], fields[9])


def keep(lease, board, path):
    """Write both copies. NVS is first: where they differ it is the newer one. Raises OSError."""
    kept = lease.pack()
    board.nvs_set("lease", kept)
    board.nvs_commit()
    _write(board.files, path, kept)


def load(board, path):
    """The lease in force, or None; a copy that is damaged or older is made good from the other."""
    first = board.nvs_get("lease")
    try:
        with board.files.open(path, "rb") as file:
            second = file.read(128)
    except OSError:
        second = None
    lease = unpack(first) or unpack(second)
    if lease and not first == second == lease.pack():
        try:
            keep(lease, board, path)
        except OSError:
            pass  # one good copy is enough to go on
    return lease


def _write(files, path, content):
    """Replace a file: a cut leaves the old one or the new one."""
    with files.open(path + ".new", "wb") as file:
        file.write(content)
    files.rename(path + ".new", path)
