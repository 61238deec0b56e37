"""The ESP32 itself: the only file of the application that imports its modules.

Pins are of the board `esp32-pzem-1`; the relay's comes from NVS (`relay_pin`: pin, level that
closes it), as boot.py needs it too, the others may be set there by `pins` (JSON).
"""

import asyncio
import binascii
import json
import os
import socket
import ssl
import struct
import time

import esp32
import machine
import network

_RELAY = b"\x1a\x01"
_PINS = {"tx": 17, "rx": 16, "led": 2, "button": 0}
_WATCHDOG_MS = 60_000
_LOWEST_S = 1_700_000_000  # a clock before it was never set
_EPOCH_S = 946_684_800 if time.gmtime(0)[0] == 2000 else 0
_NTP_EPOCH_S = 2_208_988_800
_NVS_BYTES = 4_096
_LOOK_S = 0.005
_DATAGRAM_S = 0.02
_DATAGRAM_BYTES = 512
_OWN_ADDRESS = "192.168.4.1"  # in the access point: the portal is nowhere else
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_CAUSES = {
    "PWRON_RESET": "power_on",
    "HARD_RESET": "software",  # machine.reset() above all; a panic of the system too
    "WDT_RESET": "watchdog",
    "DEEPSLEEP_RESET": "deep_sleep",
    "SOFT_RESET": "software",
}


class Files:
    """The flash."""

    open = staticmethod(open)
    rename = staticmethod(os.rename)
    remove = staticmethod(os.remove)
    listdir = staticmethod(os.listdir)
    mkdir = staticmethod(os.mkdir)

    def stat_size(self, path):
        """Bytes of a file; None when there is none."""
        try:
            return os.stat(path)[6]
        except OSError:
            return None

    def free_bytes(self):
        """What is left."""
        state = os.statvfs("/")
        return state[0] * state[3]

    def sync(self):
        """littlefs has on the flash what was closed."""


class Line:
    """What asyncio lets wrap the socket of a connection, in TLS or not at all (`tls` None).

    It keeps the socket: mbedtls lets go of it when a handshake fails, asyncio when a deadline ends
    its wait, and nobody else would close it. Raises ValueError for a CA that cannot be read.
    """

    def __init__(self, tls):
        self.context = self.name = self._socket = None
        if tls:
            self.name = tls["host"]
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.context.verify_mode = ssl.CERT_REQUIRED
            # As DER, one by one: not every build of MicroPython reads PEM.
            for block in tls["ca"].split(_BEGIN)[1:]:
                der = binascii.a2b_base64(block.split(b"-")[0])
                self.context.load_verify_locations(cadata=der)

    def wrap_socket(self, raw, **how):
        self._socket = raw
        return self.context.wrap_socket(raw, **how) if self.context else raw

    def close(self):
        if self._socket:
            self._socket.close()


class Writer:
    """A connection whose `close` closes: MicroPython's own leaves that to `wait_closed`."""

    def __init__(self, stream, line=None):
        self._stream = stream
        self._line = line
        self.write, self.drain = stream.write, stream.drain

    def close(self):
        self._ending = asyncio.create_task(self._end())

    async def _end(self):
        try:
            self._stream.close()
            await self._stream.wait_closed()
        except OSError:
            pass  # the other side was first
        if self._line:
            self._line.close()


class Datagrams:
    """A UDP port of the access point; at most 50 datagrams a second are looked at."""

    def __init__(self, address, port):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(socket.getaddrinfo(address, port)[0][-1])

    async def receive(self):
        while True:
            await asyncio.sleep(_DATAGRAM_S)
            try:
                return self._socket.recvfrom(_DATAGRAM_BYTES)
            except OSError:
                pass  # nothing has come

    def send(self, answer, sender):
        try:
            self._socket.sendto(answer, sender)
        except OSError:
            pass  # it asks again

    def close(self):
        self._socket.close()


class Board:
    """The outside of the application, as docs/developer.md lists it."""

    def __init__(self):
        self.files = Files()
        self._nvs = esp32.NVS("node")
        self._buffer = bytearray(_NVS_BYTES)
        self._relay_pin, self._closed_level = self.nvs_get("relay_pin") or _RELAY
        # boot.py has set and held it; a new node's is as the hardware leaves it.
        self._relay = machine.Pin(self._relay_pin)
        pins = dict(_PINS)
        pins.update(json.loads(self.nvs_get("pins") or b"{}"))
        self._led = machine.Pin(pins["led"], machine.Pin.OUT)
        self._button = machine.Pin(pins["button"], machine.Pin.IN, machine.Pin.PULL_UP)
        self._uart = machine.UART(2, baudrate=9_600, tx=pins["tx"], rx=pins["rx"], timeout=0)
        self._rtc = machine.RTC()
        self._station = network.WLAN(network.STA_IF)
        self._watchdog = None

    def ticks_ms(self):
        return time.ticks_ms()

    def ticks_diff(self, later, earlier):
        return time.ticks_diff(later, earlier)

    def unix_s(self):
        year, month, day, _, hour, minute, second, _ = self._rtc.datetime()
        now_s = time.mktime((year, month, day, hour, minute, second, 0, 0)) + _EPOCH_S
        return now_s if now_s >= _LOWEST_S else 0

    def set_unix_s(self, unix_s):
        t = time.gmtime(unix_s - _EPOCH_S)
        self._rtc.datetime((t[0], t[1], t[2], t[6], t[3], t[4], t[5], 0))

    def uart_write(self, sent):
        self._uart.write(sent)

    async def uart_read(self, count, deadline_ms):
        began_ms = time.ticks_ms()
        received = b""
        while True:
            waiting = min(self._uart.any(), count - len(received))
            if waiting:
                received += self._uart.read(waiting) or b""
            if len(received) >= count:
                return received
            if time.ticks_diff(time.ticks_ms(), began_ms) >= deadline_ms:
                return received
            await asyncio.sleep(_LOOK_S)

    def uart_drain(self):
        while self._uart.any():
            self._uart.read(self._uart.any())

    def relay_set(self, closed):
        level = self._closed_level if closed else 1 - self._closed_level
        self._relay = machine.Pin(self._relay_pin, machine.Pin.OUT, value=level, hold=True)

    def relay_get(self):
        return self._relay.value() == self._closed_level

    def led(self, on):
        self._led.value(1 if on else 0)

    def button_pressed(self):
        return not self._button.value()

    def nvs_get(self, key):
        try:
            return bytes(self._buffer[: self._nvs.get_blob(key, self._buffer)])
        except OSError:
            return None

    def nvs_set(self, key, value):
        self._nvs.set_blob(key, value)

    def nvs_commit(self):
        self._nvs.commit()

    def rtc_get(self):
        return self._rtc.memory()

    def rtc_set(self, value):
        self._rtc.memory(value)

    async def wifi_connect(self, ssid, password, deadline_ms):
        station = self._station
        station.active(True)
        if not station.isconnected():
            station.disconnect()
            station.connect(ssid, password)
        began_ms = time.ticks_ms()
        while not station.isconnected():
            if time.ticks_diff(time.ticks_ms(), began_ms) >= deadline_ms:
                return False
            await asyncio.sleep(0.1)
        return True

    def wifi_connected(self):
        return self._station.isconnected()

    def wifi_rssi(self):
        return self._station.status("rssi") if self._station.isconnected() else None

    def wifi_access_point(self, ssid, password):
        point = network.WLAN(network.AP_IF)
        point.active(True)
        point.config(essid=ssid, password=password, authmode=network.AUTH_WPA2_PSK)
        return _OWN_ADDRESS

    def wifi_address(self):
        return self._station.ifconfig()[0]

    async def open_stream(self, host, port, tls, deadline_ms):
        line, writer = Line(tls), None
        try:
            reader, stream = await asyncio.wait_for(
                asyncio.open_connection(host, port, ssl=line, server_hostname=line.name),
                deadline_ms / 1_000,
            )
            writer = Writer(stream, line)
        finally:
            if not writer:
                line.close()
        return reader, writer

    async def start_server(self, serve, port):
        async def serve_one(reader, writer):
            await serve(reader, Writer(writer))

        return await asyncio.start_server(serve_one, _OWN_ADDRESS, port)

    def open_datagrams(self, port):
        return Datagrams(_OWN_ADDRESS, port)

    def random(self, count):
        return os.urandom(count)

    def unique_id(self):
        return machine.unique_id()

    def reset(self):
        machine.reset()

    def reset_cause(self):
        cause = machine.reset_cause()
        for name, told in _CAUSES.items():
            if getattr(machine, name, None) == cause:
                return told
        return str(cause)

    def watchdog_feed(self):
        # From the first feeding on it cannot be stopped; safe mode never begins.
        if not self._watchdog:
            self._watchdog = machine.WDT(timeout=_WATCHDOG_MS)
        self._watchdog.feed()

    async def resolve(self, host):
        await asyncio.sleep(0)
        return socket.getaddrinfo(host, 1)[0][-1][0]

    async def ntp(self, host, deadline_ms):
        asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        began_ms = time.ticks_ms()
        try:
            asked.setblocking(False)
            asked.sendto(b"\x1b" + bytes(47), socket.getaddrinfo(host, 123)[0][-1])
            while time.ticks_diff(time.ticks_ms(), began_ms) < deadline_ms:
                try:
                    answer = asked.recv(48)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                if len(answer) == 48 and answer[1]:
                    ntp_s = struct.unpack(">I", answer[40:44])[0]
                    # Its 32 bits begin anew in 2036; 0 is no time.
                    return ntp_s - _NTP_EPOCH_S & 0xFFFFFFFF if ntp_s else 0
        except OSError:
            pass
        finally:
            asked.close()
        return 0
