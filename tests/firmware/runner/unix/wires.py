"""What the stand-ins of the chip's modules stand on: flash, NVS and RTC memory are files, the rest
are lines of TCP to the test, that starts this process with their ports on its standard input.
"""

import asyncio
import binascii
import json
import os
import socket
import sys

import vfs

_BLOCK = 4_096
_ERASED = b"\xff" * _BLOCK
_MANY = 32  # blocks of a file that only takes room
_RESET = 3
_COUNT, _SIZE, _ERASE = 4, 5, 6  # of a block device's ioctl

job = json.load(sys.stdin)
_host = vfs.VfsPosix()
_pins = {int(number): level for number, level in job["pins"].items()}
_state = {"wifi": job["wifi"], "quarters": 0, "asked": 0}


def _joined(port):
    wire = socket.socket()
    wire.connect(socket.getaddrinfo("127.0.0.1", port)[0][-1])
    return wire


_uart = _joined(job["uart"])
_uart.setblocking(False)
_control = _joined(job["control"])
_received = bytearray()


def _kept(name):
    return job["place"] + "/" + name


def _read(name, mode):
    try:
        with _host.open(_kept(name), mode) as file:
            return file.read()
    except OSError:
        return None


def _replace(name, text):
    with _host.open(_kept(name + ".new"), "w") as file:
        file.write(text)
    _host.rename(_kept(name + ".new"), _kept(name))


def tell(told):
    """A line to the test."""
    _control.write(json.dumps(told).encode() + b"\n")


class Flash:
    """The image as a block device; what was written is in the file, wherever this process ends."""

    def __init__(self):
        self._file = _host.open(_kept("flash.img"), "r+b")

    def readblocks(self, block, buffer, offset=0):
        self._file.seek(block * _BLOCK + offset)
        self._file.readinto(buffer)

    def writeblocks(self, block, buffer, offset):
        self._file.seek(block * _BLOCK + offset)
        self._file.write(buffer)

    def ioctl(self, wanted, argument):
        if wanted == _COUNT:
            return self._file.seek(0, 2) // _BLOCK
        if wanted == _SIZE:
            return _BLOCK
        if wanted == _ERASE:
            self.writeblocks(argument, _ERASED, 0)
        return 0


async def listen():
    """Take what the test orders, as it comes."""
    lines = asyncio.StreamReader(_control)
    while True:
        line = await lines.readline()
        if not line:
            sys.exit(0)  # the world that started this boot is gone
        order = json.loads(line)
        if "pin" in order:
            _pins[order["pin"]] = order["level"]
        if "wifi" in order:
            _state["wifi"] = order["wifi"]
        if "full" in order:
            _fill(order["full"])
        _state["quarters"] += order.get("quarters", 0)
        _state["asked"] += order.get("look", 0)


def _fill(full):
    """Take all of the file system's room, or give it back."""
    count = 0
    while not full:
        try:
            os.remove(f"/filler{count}")
        except OSError:
            return
        count += 1
    for blocks in (_MANY, 1):
        try:
            while True:
                count += 1
                with open(f"/filler{count - 1}", "wb") as file:
                    for _ in range(blocks):  # noqa: FURB122 - files have no writelines here
                        file.write(_ERASED)
        except OSError:
            pass  # that was the last one of this size


def asked():
    """How often the test wanted to know how the node is."""
    count, _state["asked"] = _state["asked"], 0
    return count


def cause():
    return job["cause"]


def clock_set(offset_s):
    _replace("clock", str(offset_s))  # mbedtls sees it (host.py)


def feed(timeout_ms):
    # It bites from outside: a loop that hangs must not keep it off.
    tell({"feed": timeout_ms})


def nvs_read():
    return _read("nvs.json", "r") or "{}"


def nvs_write(text):
    _replace("nvs.json", text)


def pin_get(number):
    return _pins.get(number, 0)


def pin_set(number, level):
    _pins[number] = level
    tell({"pin": number, "level": level})


def quarters():
    count, _state["quarters"] = _state["quarters"], 0
    return count


def reset():
    sys.exit(_RESET)


def rtc_read():
    return _read("rtc", "r") or ""


def rtc_write(text):
    _replace("rtc", text)


def uart_any():
    try:
        _received.extend(_uart.recv(256))
    except OSError:
        pass  # nothing has come
    return len(_received)


def uart_read(count):
    taken = bytes(_received[:count])
    _received[:] = _received[count:]
    return binascii.hexlify(taken).decode()


def uart_write(text):
    _uart.write(binascii.unhexlify(text))


def wifi():
    return _state["wifi"]
