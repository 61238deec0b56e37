"""A board whose NVS, RTC memory, pin and files live in memory, and whose power can be cut.

`board.writes_left` counts down with everything that lasts; at 0 the power goes: `CutError`, and a
write to a file is torn in the middle. What is left is taken over by `after_reset` (RTC memory and
pin hold) or `after_power_loss` (NVS and files only; the pin as boot.py sets it).
"""


class CutError(Exception):
    """The power went."""


class MemoryFile:
    """One open file of `MemoryFiles`."""

    def __init__(self, files, path):
        self._files = files
        self._path = path
        self._place = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def seek(self, place):
        self._place = place

    def read(self, most=-1):
        content = self._files.contents[self._path]
        end = len(content) if most < 0 else self._place + most
        found = content[self._place : end]
        self._place += len(found)
        return found

    def write(self, added):
        try:
            self._files.spend()
        except CutError:
            self._put(added[: len(added) // 2])
            raise
        self._put(added)
        return len(added)

    def _put(self, added):
        old = self._files.contents[self._path]
        end = self._place + len(added)
        self._files.contents[self._path] = old[: self._place] + added + old[end:]
        self._place = end


class MemoryFiles:
    """The file system of a board: contents by path."""

    def __init__(self, spend):
        self.contents = {}
        self.full = False
        self.spend = spend

    def open(self, path, mode):
        if mode == "wb":
            if self.full and path not in self.contents:
                raise OSError(28)
            self.spend()
            self.contents[path] = b""
        elif path not in self.contents:
            raise OSError(2)
        file = MemoryFile(self, path)
        if mode == "ab":
            file.seek(len(self.contents[path]))
        return file

    def rename(self, old, new):
        self.spend()
        self.contents[new] = self.contents.pop(old)

    def remove(self, path):
        self.spend()
        del self.contents[path]

    def free_bytes(self):
        return 1_000_000

    def mkdir(self, path):
        pass

    def stat_size(self, path):
        return len(self.contents[path]) if path in self.contents else None


class MemoryBoard:
    """Pin, RTC memory, NVS and files of one node."""

    def __init__(self):
        self.writes_left = None
        self.nvs = {}
        self.rtc = b""
        self.pin = False
        self.nvs_is_eager = False  # whether a set lasts before its commit: the ESP32's mostly does
        self.nvs_broken = False
        self.pin_stuck = False
        self.moves = 0
        self.files = MemoryFiles(self.spend)
        self._pending = {}

    def spend(self):
        if self.writes_left is not None:
            if not self.writes_left:
                raise CutError
            self.writes_left -= 1

    def relay_set(self, closed):
        self.spend()
        if not self.pin_stuck:
            self.moves += closed != self.pin
            self.pin = closed

    def relay_get(self):
        return self.pin

    def nvs_get(self, key):
        return self._pending.get(key, self.nvs.get(key))

    def nvs_set(self, key, value):
        if self.nvs_broken:
            raise OSError(5)
        self.spend()
        self._pending[key] = value
        if self.nvs_is_eager:
            self.nvs[key] = value

    def nvs_commit(self):
        self.spend()
        self.nvs.update(self._pending)
        self._pending = {}

    def rtc_get(self):
        return self.rtc

    def rtc_set(self, value):
        self.spend()
        self.rtc = value

    def after_reset(self):
        """The same node after a reset: what was not committed is gone."""
        board = self.after_power_loss()
        board.rtc, board.pin = self.rtc, self.pin
        return board

    def after_power_loss(self):
        """The same node after the power was away; boot.py has set the pin from NVS."""
        board = MemoryBoard()
        board.nvs_is_eager = self.nvs_is_eager
        board.nvs = dict(self.nvs)
        board.files.contents = dict(self.files.contents)
        kept = board.nvs.get("relay")
        board.pin = kept == b"\x01"
        return board
