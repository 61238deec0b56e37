"""What the bench's programs use of `network`: one access point in reach."""

from machine import board

STA_IF = 0


class WLAN:
    def __init__(self, interface):
        assert interface == STA_IF
        self._in = False

    def active(self, on):
        assert on

    def connect(self, ssid, password):
        self._in = [ssid, password] == board["wifi"]

    def isconnected(self):
        return self._in

    def status(self, what):
        assert what == "rssi"
        return -61

    def disconnect(self):
        self._in = False
