"""Programs that mpremote runs on a board, in MicroPython; each prints `@` and one JSON object.

They reach the board by standard input: a command line could be read by every user of the bench's
computer, and they carry the node's secret.
"""

from collections.abc import Mapping
from typing import Final

from gateway.app.firmware.bench import BenchFile

MARK: Final = "@"

# The application was interrupted by mpremote, its watchdog was not: loader.stay() feeds it.
_STAY: Final = """\
import json
try:
    import loader
    if loader.timer:
        loader.stay()
except ImportError:
    pass
def tell(found):
    print("@" + json.dumps(found))
"""

HELLO: Final = (
    _STAY
    + """\
import binascii
try:
    import machine, esp32
    found = {"mac": binascii.hexlify(machine.unique_id()).decode()}
    try:
        with open("/slot_a/manifest") as file:
            fields = json.load(file)
        found["hardware"], found["version"] = fields["hardware"], fields["version"]
    except (OSError, ValueError, KeyError):
        pass
except ImportError:
    found = {}
tell(found)
"""
)

_KEEP: Final = """\
import esp32
nvs = esp32.NVS("node")
for key, value in values.items():
    nvs.set_blob(key, value)
nvs.commit()
bad = []
for key, value in values.items():
    kept = bytearray(len(value) + 1)
    try:
        whole = nvs.get_blob(key, kept) == len(value) and kept[:-1] == value
    except OSError:
        whole = False
    if not whole:
        bad.append(key)
tell({"kept": len(values) - len(bad), "bad": bad})
"""

_TEST: Final = """\
import sys, time
import machine
found = {}

def measure():
    sys.path.insert(0, "/slot_a")
    from node import frames
    uart = machine.UART(uart_id, 9600, tx=tx, rx=rx, timeout=500, timeout_char=20)
    request = frames.read_all(frames.GENERAL_ADDRESS)
    why = "SILENT"
    for _ in range(3):
        uart.read()
        uart.write(request)
        try:
            values = frames.parse_values(request, uart.read(frames.reply_length(request)) or b"")
            bad = frames.implausible(values, 100000)
            if not bad:
                return values
            why = "implausible " + bad
        except frames.FrameError as error:
            why = error.code
        time.sleep(0.05)
    raise ValueError(why)

def meter():
    values = measure()
    found["meter"] = {"voltage_dv": values.voltage_dv, "current_ma": values.current_ma,
                      "energy_wh": values.energy_wh, "frequency_dhz": values.frequency_dhz}

def move(closed):
    pin = machine.Pin(relay_pin, machine.Pin.OUT, value=closes if closed else 1 - closes, hold=True)
    time.sleep(settle_s)
    return pin.value() == (closes if closed else 1 - closes)

def relay():
    try:
        followed = move(True)
        closed_ma = measure().current_ma if test_meter else None
    finally:
        followed_open = move(False)
    open_ma = measure().current_ma if test_meter else None
    found["relay"] = {"followed": followed and followed_open,
                      "closed_ma": closed_ma, "open_ma": open_ma}

def wifi():
    import network
    station = network.WLAN(network.STA_IF)
    station.active(True)
    try:
        station.connect(ssid, password)
        for _ in range(wait_s * 10):
            if station.isconnected():
                break
            time.sleep(0.1)
        else:
            raise ValueError("not connected")
        found["rssi"] = station.status("rssi")
    finally:
        station.disconnect()

for wanted, test in ((test_meter, meter), (test_relay, relay), (test_wifi, wifi)):
    if wanted:
        try:
            test()
        except Exception as error:
            found.setdefault("failed", {})[test.__name__] = str(error) or repr(error)
tell(found)
"""


def keep(values: Mapping[str, bytes]) -> str:
    """Write values to the node's NVS and read them back; tells `bad`, the keys that differ."""
    return f"{_STAY}values = {dict(values)!r}\n{_KEEP}"


def self_test(file: BenchFile, *, settle_s: int, wait_s: int) -> str:
    """Measure, move the relay, join the Wi-Fi, each when the bench wants it.

    Tells `meter`, `relay`, `rssi` of what passed, and `failed`: reasons by name. The relay is left
    open. `settle_s`: the module measures once a second. `wait_s`: for the Wi-Fi.
    """
    given: dict[str, object] = {
        "uart_id": file.meter.uart,
        "tx": file.meter.tx,
        "rx": file.meter.rx,
        "relay_pin": file.relay.pin,
        "closes": file.relay.closes,
        "ssid": file.wifi.ssid,
        "password": file.wifi.password,
        "test_meter": file.tests.meter,
        "test_relay": file.tests.relay,
        "test_wifi": file.tests.wifi,
        "settle_s": settle_s,
        "wait_s": wait_s,
    }
    return _STAY + "".join(f"{name} = {value!r}\n" for name, value in given.items()) + _TEST
