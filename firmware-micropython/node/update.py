"""The signed update: fetch, verify, unpack to the slot not in use, switch, prove or go back.

Works together with `loader.py`, which no update changes and which describes the files between them.
A cut of power is allowed after any write: the slot in use is never written, and the pointer moves
only by rename.
"""

import asyncio
import hashlib
import json

from node import bundle, rsa
from node.bundle import UpdateError

PRODUCT = "prepaid-node"
PART = "/data/update.part"
# The part begins with the digest of the bundle that it becomes, so that a fetch goes on after a
# restart and never mixes two bundles.
PART_HEAD = 32
CHUNK = 1024
# A file is appended to a block at a time: less wears the flash, more costs memory.
APPEND = 4096
SLICE = 512
# What stays free on the flash beside an update: the spool and the settings go on meanwhile.
SPARE_BYTES = 32768
BLOCK = 4096
TRIAL_BOOTS = 3
TRIAL_MS = 300000
NEEDS = ("meter", "wifi", "broker", "gateway")


def other(slot):
    """The other slot."""
    return "b" if slot == "a" else "a"


def manifest_path(slot):
    """The header of the bundle that a whole slot came from."""
    return "/slot_" + slot + "/manifest"


def _read_json(files, path):
    """A small JSON object; None when there is none or it cannot be read."""
    try:
        with files.open(path, "rb") as file:
            value = json.loads(file.read(bundle.HEADER_MAX))
            return value if isinstance(value, dict) else None
    except (OSError, ValueError):
        return None


def _write_whole(files, path, content):
    """Replace a small file, whole or not at all. Raises OSError."""
    with files.open(path + ".new", "wb") as file:
        file.write(content)
    files.sync()
    files.rename(path + ".new", path)


def _remove(files, path):
    if files.stat_size(path) is not None:
        files.remove(path)


def _make_directory(files, path):
    try:
        files.mkdir(path)
    except OSError:
        # It is there; if not, the next open says so.
        pass


def security_of(board):
    """The highest security counter that proved itself on this node; 0 on a new one."""
    return int.from_bytes(board.nvs_get("security") or b"", "big")


def _raise_security(board, counter):
    """Raise the counter; never lowers it."""
    if counter > security_of(board):
        board.nvs_set("security", counter.to_bytes(4, "big"))
        board.nvs_commit()


class Update:
    """An update being fetched, and its unpacking. One at a time.

    `slot`: the slot that runs. `keys`: moduli that may have signed.
    """

    def __init__(self, board, slot, keys):
        self._board = board
        self._files = board.files
        self._slot = slot
        self._keys = keys
        self._tail = bytearray()
        self.version = None
        self.size = 0
        # Bytes of the bundle that came, without a gap.
        self.offset = 0

    def begin(self, version, size, sha256, security):
        """Start or go on fetching. `sha256`: the bundle's, 64 hex digits. Raises UpdateError."""
        if self._files.stat_size("/trial") is not None:
            raise UpdateError("UPDATE_TRIAL", "the present version has not proved itself yet")
        if security < security_of(self._board):
            raise UpdateError("UPDATE_OLD", f"security counter {security} is too low")
        if not bundle.PREFIX + bundle.SIGNATURE < size <= bundle.BUNDLE_MAX:
            raise UpdateError("UPDATE_SIZE", f"a bundle of {size} bytes")
        try:
            digest = bytes.fromhex(sha256)
        except ValueError:
            digest = b""
        if len(digest) != PART_HEAD:
            raise UpdateError("UPDATE_FORM", "not a digest")
        self.version = version
        self.size = size
        try:
            self._resume(digest)
        except OSError:
            raise UpdateError("STORAGE_FULL", "the update cannot be kept") from None

    def _resume(self, digest):
        self._tail = bytearray()
        had = self._files.stat_size(PART) or 0
        if had >= PART_HEAD:
            with self._files.open(PART, "rb") as file:
                same = file.read(PART_HEAD) == digest
            if same and had - PART_HEAD <= self.size:
                self.offset = had - PART_HEAD
                return
        _make_directory(self._files, "/data")
        _remove(self._files, PART)
        if self._files.free_bytes() < self.size + SPARE_BYTES:
            raise UpdateError("STORAGE_FULL", f"no room for {self.size} bytes")
        with self._files.open(PART, "wb") as file:
            file.write(digest)
        self.offset = 0

    def want(self):
        """(offset, count) of the next chunk to ask for; None when there is none to ask for."""
        left = self.size - self.offset
        return (self.offset, min(CHUNK, left)) if left > 0 else None

    def take(self, offset, chunk):
        """Take a chunk; whether it was the one that is wanted. Raises UpdateError STORAGE_FULL."""
        want = self.want()
        if want is None or offset != want[0] or len(chunk) != want[1]:
            return False
        self._tail += chunk
        self.offset += len(chunk)
        if len(self._tail) >= APPEND or self.offset == self.size:
            try:
                with self._files.open(PART, "ab") as file:
                    file.write(self._tail)
            except OSError:
                self.offset = (self._files.stat_size(PART) or PART_HEAD) - PART_HEAD
                self._tail = bytearray()
                raise UpdateError("STORAGE_FULL", "the update cannot be kept") from None
            self._tail = bytearray()
        return True

    def complete(self):
        """Whether all of it is there, so that `install` may come."""
        return 0 < self.size == self.offset

    def forget(self):
        """Give up what was fetched."""
        _remove(self._files, PART)
        self._tail = bytearray()
        self.version = None
        self.size = self.offset = 0

    async def install(self):
        """Verify, unpack and switch; the caller restarts the node then. Raises UpdateError.

        After a refusal nothing of the bundle is kept, and the slot in use is as it was.
        """
        try:
            raw = await self._verified()
            await self._unpack(bundle.Header(raw), raw)
        except OSError:
            raise UpdateError("STORAGE_FULL", "the flash refuses") from None
        except MemoryError:
            self.forget()
            raise UpdateError("UPDATE_MEMORY", "not enough memory to install it") from None
        except UpdateError:
            self.forget()
            raise

    async def _verified(self):
        """The header's bytes, once the signature, the payload and the purpose are right."""
        with self._files.open(PART, "rb") as file:
            announced = file.read(PART_HEAD)
            prefix = file.read(bundle.PREFIX)
            raw = file.read(bundle.header_length(prefix))
            signature = file.read(bundle.SIGNATURE)
            digest = hashlib.sha256(prefix + raw).digest()
            if not self._signed(digest, signature):
                raise UpdateError("UPDATE_SIGNATURE", "not signed with a key of this node")
            # From here on the header is the signer's word.
            header = bundle.Header(raw)
            self._check_purpose(header)
            first = file.read(2)
            if not bundle.window_fits(first):
                raise UpdateError("UPDATE_FORM", "the payload needs too much memory")
            whole = hashlib.sha256(prefix + raw + signature + first)
            payload = hashlib.sha256(first)
            size = len(first)
            while size <= header.size:
                part = file.read(SLICE)
                if not part:
                    break
                payload.update(part)
                whole.update(part)
                size += len(part)
                await asyncio.sleep(0)
        if size != header.size or payload.digest() != header.sha256:
            raise UpdateError("UPDATE_DAMAGED", "the payload is not the one that was signed")
        if whole.digest() != announced:
            # Signed, but not what the gateway ordered: another release, sent in its place.
            raise UpdateError("UPDATE_DAMAGED", "not the bundle that was announced")
        return raw

    def _signed(self, digest, signature):
        return any(rsa.verified(key, digest, signature) for key in self._keys)

    def _check_purpose(self, header):
        if header.product != PRODUCT:
            raise UpdateError("UPDATE_PRODUCT", "for product " + header.product)
        hardware = (self._board.nvs_get("hardware") or b"").decode()
        if header.hardware != hardware:
            raise UpdateError(
                "UPDATE_HARDWARE", f"for {header.hardware}, this is {hardware or 'unknown'}"
            )
        if header.security < security_of(self._board):
            raise UpdateError("UPDATE_OLD", f"security counter {header.security} is too low")

    async def _unpack(self, header, raw):
        files = self._files
        spare = other(self._slot)
        root = "/slot_" + spare
        _remove(files, manifest_path(spare))
        _make_directory(files, root)
        _make_directory(files, root + "/node")
        for name in files.listdir(root + "/node"):
            files.remove(root + "/node/" + name)
        if files.free_bytes() < header.unpacked + BLOCK * len(header.files) + SPARE_BYTES:
            raise UpdateError("STORAGE_FULL", f"no room for {header.unpacked} bytes")
        with files.open(PART, "rb") as packed:
            packed.read(PART_HEAD + bundle.PREFIX + len(raw) + bundle.SIGNATURE)
            stream = bundle.Inflate(packed)
            for name, size, digest in header.files:
                await _unpack_file(files, stream, root + "/node/" + name, size, digest)
            if stream.read(1):
                raise UpdateError("UPDATE_FORM", "the payload is longer than its files")
        with files.open(manifest_path(spare) + ".new", "wb") as file:
            file.write(raw)
        self._switch(header, spare)

    def _switch(self, header, spare):
        """The trial first: a slot that is whole and not on trial is one that proved itself."""
        files = self._files
        trial = {"slot": spare, "boots": TRIAL_BOOTS, "version": header.version}
        _write_whole(files, "/trial", json.dumps(trial).encode())
        try:
            files.rename(manifest_path(spare) + ".new", manifest_path(spare))
            _write_whole(files, "/slot", spare.encode())
        except OSError:
            # Nothing was switched: no trial is under way, and nothing may look as if it had
            # proved itself.
            _remove(files, manifest_path(spare))
            _remove(files, "/trial")
            raise


async def _unpack_file(files, stream, path, size, digest):
    """Write one file and read it back: what counts is what stands on the flash."""
    with files.open(path, "wb") as file:
        left = size
        while left:
            part = stream.read(min(SLICE, left))
            if not part:
                raise UpdateError("UPDATE_DAMAGED", "the payload is shorter than its files")
            file.write(part)
            left -= len(part)
            await asyncio.sleep(0)
    found = hashlib.sha256()
    with files.open(path, "rb") as file:
        while True:
            part = file.read(SLICE)
            if not part:
                break
            found.update(part)
    if found.digest() != digest:
        raise UpdateError("UPDATE_DAMAGED", path + " is not what was signed")


class Trial:
    """Whether the running slot has proved itself, and what happens when it does not.

    `note` what was seen working; call `check` once a second. The five minutes count from here.
    """

    def __init__(self, board, slot):
        self._board = board
        self._slot = slot
        self._missing = list(NEEDS)
        self._began_ms = board.ticks_ms()
        manifest = _read_json(board.files, manifest_path(slot)) or {}
        self.version = manifest.get("version", "unknown")
        self._security = manifest.get("security", 0)
        self.under_way = board.files.stat_size("/trial") is not None
        if not self.under_way:
            # Again at every start: power may have failed between proof and counter.
            self._settle()

    def note(self, need):
        """Something of NEEDS works: `meter` answered, `wifi`, `broker`, `gateway` acknowledged."""
        if need in self._missing:
            self._missing.remove(need)

    def check(self):
        """Prove, go on waiting, or give up and restart. Returns `proved` at that moment, else None.

        Raises OSError when the flash refuses; the next call tries again.
        """
        if not self.under_way:
            return None
        if not self._missing:
            _remove(self._board.files, PART)
            self._board.files.remove("/trial")
            self.under_way = False
            self._settle()
            return "proved"
        waited_ms = self._board.ticks_diff(self._board.ticks_ms(), self._began_ms)
        if waited_ms >= TRIAL_MS:
            self.give_up(f"nothing of {', '.join(self._missing)} in 5 minutes")
        return None

    def give_up(self, reason):
        """Leave word for the loader, which goes back, and restart. Raises OSError."""
        files = self._board.files
        trial = _read_json(files, "/trial") or {"boots": 0}
        trial["slot"] = self._slot
        trial["failed"] = reason
        _write_whole(files, "/trial", json.dumps(trial).encode())
        self._board.reset()

    def _settle(self):
        _raise_security(self._board, self._security)


def failure(files):
    """{"version", "failed", ...} of an update that was given up, to be told once; None without."""
    if files.stat_size("/failed") is None:
        return None
    return _read_json(files, "/failed") or {"failed": "unknown"}


def forget_failure(files):
    """The gateway knows. Raises OSError."""
    _remove(files, "/failed")
