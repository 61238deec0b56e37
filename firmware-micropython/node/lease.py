"""The credit lease: up to which folded Wh there is supply without the gateway.

Pure. No money: the gateway grants an absolute cut-off for the folded counter, an expiry, and what
happens at it: `hold` keeps the cut-off, `grace` moves it on by `grace_wh`, `open` opens the relay.
"""

import binascii
import struct

from node.port import const

POLICIES = ("hold", "grace", "open")
_FORM = "<BB26sIIIIIII"
_VERSION = const(1)
_MOST = const(0x7FFFFFFF)
_EPOCH_BYTES = const(26)  # a ULID

# name, lowest, highest; all of them whole numbers that a command must give.
_NUMBERS = (
    ("seq", 1, _MOST),
    ("cutoff_wh", 0, _MOST),
    ("expires", 0, _MOST),
    ("grace_wh", 0, _MOST),
    ("limit_w", 0, 100_000),
    ("emergency_limit_w", 0, 100_000),
)


class Lease:
    """A lease as granted. `expires` 0: never. Limits in W, 0: none beside the node's own.

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

    def pack(self):
        """The lease as bytes with CRC; one such copy lies in NVS, one in a file."""
        body = struct.pack(
            _FORM,
            _VERSION,
            POLICIES.index(self.policy),
            self.epoch.encode(),
            self.seq,
            self.cutoff_wh,
            self.expires,
            self.grace_wh,
            self.limit_w,
            self.emergency_limit_w,
            self.granted_s,
        )
        return body + struct.pack("<I", binascii.crc32(body))


def parse(args, granted_s):
    """The lease of a command's arguments. Raises ValueError naming what is wrong."""
    epoch = args.get("epoch")
    if type(epoch) is not str or not 0 < len(epoch.encode()) <= _EPOCH_BYTES or "\0" in epoch:
        raise ValueError("epoch")
    numbers = []
    for name, low, high in _NUMBERS:
        value = args.get(name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(name)
        numbers.append(value)
    if args.get("policy") not in POLICIES:
        raise ValueError("policy")
    if len(args) != len(_NUMBERS) + 2:
        raise ValueError("unknown argument")
    return Lease(epoch, numbers, args["policy"], granted_s)


def unpack(kept):
    """The lease of one kept copy, or None when it is absent or damaged."""
    size = struct.calcsize(_FORM)
    if len(kept or b"") != size + 4 or kept[0] != _VERSION or kept[1] >= len(POLICIES):
        return None
    if struct.unpack_from("<I", kept, size)[0] != binascii.crc32(kept[:size]):
        return None
    fields = struct.unpack_from(_FORM, kept)
    epoch = fields[2].rstrip(b"\0").decode()
    return Lease(epoch, fields[3:9], POLICIES[fields[1]], fields[9])


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
