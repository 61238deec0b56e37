"""The boot loader of an ESP32 on TCP, as far as esptool needs it to write and check a flash.

Espressif's serial protocol: SLIP frames of direction, command, length, value, data. The stub that
esptool uploads is not run: from MEM_END on, this answers as that stub would. What is not modelled:
reset lines, baud rates, timing, the chip.
"""

import hashlib
import socketserver
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FLASH_BYTES: Final = 0x400000
SYNC, FLASH_END, MEM_BEGIN, MEM_END, MEM_DATA = 0x08, 0x04, 0x05, 0x06, 0x07
WRITE_REG, READ_REG, SET_PARAMS, ATTACH, BAUD = 0x09, 0x0A, 0x0B, 0x0D, 0x0F
DEFL_BEGIN, DEFL_DATA, DEFL_END, MD5, ERASE_ALL = 0x10, 0x11, 0x12, 0x13, 0xD0
FLASH_BEGIN, RUN_USER_CODE = 0x02, 0xD3
SIMPLE: Final = {FLASH_END, FLASH_BEGIN, MEM_BEGIN, MEM_END, MEM_DATA, WRITE_REG, SET_PARAMS}
ALSO_SIMPLE: Final = {ATTACH, BAUD, DEFL_END, RUN_USER_CODE}
# What the registers hold that esptool looks at; every other reads as 0.
MAGIC: Final = (0x40001000, 0x00F01D83)
CRYSTAL_40_MHZ: Final = (0x3FF40014, 347)
FLASH_OF_4_MB: Final = (0x3FF42080, 0x1640EF)
EFUSE_MAC: Final = 0x3FF5A004


class Chip:
    """One ESP32: its address, its flash, and what was done to it."""

    def __init__(self, mac: str) -> None:
        number = int(mac, 16)
        self.registers = dict((MAGIC, CRYSTAL_40_MHZ, FLASH_OF_4_MB))
        self.registers[EFUSE_MAC] = number & 0xFFFFFFFF
        self.registers[EFUSE_MAC + 4] = number >> 32
        self.flash = bytearray(b"\x5a" * FLASH_BYTES)
        self.erased = 0
        # A bit at this place cannot be set back by an erase: the flash is worn.
        self.worn_at: int | None = None
        self._unpack = zlib.decompressobj()
        self._at = 0

    def run(self, command: int, content: bytes) -> tuple[int, bytes, int]:
        """Value, data and status of an answer."""
        words = struct.unpack(f"<{len(content) // 4}I", content[: len(content) // 4 * 4])
        if command == READ_REG:
            return self.registers.get(words[0], 0), b"", 0
        if command == ERASE_ALL:
            self.erased += 1
            self.flash[:] = b"\xff" * FLASH_BYTES
        elif command == DEFL_BEGIN:
            self._unpack, self._at = zlib.decompressobj(), words[3]
        elif command == DEFL_DATA:
            self._program(self._unpack.decompress(content[16:]))
        elif command == MD5:
            part = self.flash[words[0] : words[0] + words[1]]
            return 0, hashlib.md5(part, usedforsecurity=False).digest(), 0
        elif command not in SIMPLE | ALSO_SIMPLE:
            return 0, b"", 1
        return 0, b"", 0

    def _program(self, content: bytes) -> None:
        self.flash[self._at : self._at + len(content)] = content
        self._at += len(content)
        if self.worn_at is not None:
            self.flash[self.worn_at] &= 0xFE


class Loader(socketserver.BaseRequestHandler):
    """One connection: the chip has just been reset into its boot loader."""

    server: "Server"

    def handle(self) -> None:
        """Answer until esptool hangs up."""
        stub = False
        pending = b""
        while received := self.request.recv(65_536):
            pending += received
            while pending.count(b"\xc0") >= 2:
                _, frame, pending = pending.split(b"\xc0", 2)
                if not frame:
                    pending = b"\xc0" + pending
                    continue
                frame = frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
                command, content = frame[1], frame[8:]
                if command == SYNC:
                    for _ in range(8):
                        self._say(command, 1, b"", 0, stub=stub)
                    continue
                value, told, status = self.server.chip.run(command, content)
                self._say(command, value, told, status, stub=stub)
                if command == MEM_END:
                    stub = True
                    self.request.sendall(b"\xc0OHAI\xc0")

    def _say(self, command: int, value: int, told: bytes, status: int, *, stub: bool) -> None:
        end = bytes([status, 5 if status else 0]) + (b"" if stub else b"\0\0")
        frame = struct.pack("<BBHI", 1, command, len(told + end), value) + told + end
        escaped = frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
        self.request.sendall(b"\xc0" + escaped + b"\xc0")


class Server(socketserver.ThreadingTCPServer):
    """Listens for esptool."""

    daemon_threads = True

    def __init__(self, chip: Chip) -> None:
        super().__init__(("127.0.0.1", 0), Loader)
        self.chip = chip


@contextmanager
def boot_loader(chip: Chip) -> Iterator[str]:
    """A chip in its boot loader; the port as esptool names it."""
    with Server(chip) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"socket://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
