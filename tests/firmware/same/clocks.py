"""A board of memory with a clock that a test moves."""

from tests.firmware.same.memory import MemoryBoard

PERIOD = 1 << 30


class ClockBoard(MemoryBoard):
    """Ticks begin shortly before they wrap; `unix` is the wall clock, 0: unset."""

    def __init__(self):
        super().__init__()
        self.ticks = PERIOD - 1_500
        self.unix = 0
        self.server_s = 0

    def pass_s(self, seconds):
        self.ticks += seconds * 1_000
        if self.unix:
            self.unix += seconds

    def ticks_ms(self):
        return self.ticks % PERIOD

    def ticks_diff(self, later, earlier):
        return (later - earlier + PERIOD // 2) % PERIOD - PERIOD // 2

    def unix_s(self):
        return self.unix

    def set_unix_s(self, unix_s):
        self.unix = unix_s

    def wifi_rssi(self):
        return -70

    async def ntp(self, host, deadline_ms):
        return self.server_s
