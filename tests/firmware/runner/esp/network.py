"""The ESP32's `network`: a network that the test switches on and off."""

import wires

STA_IF = 0
AP_IF = 1
AUTH_WPA2_PSK = 3


class WLAN:
    def __init__(self, interface):
        pass

    def active(self, up):
        pass

    def isconnected(self):
        return bool(wires.wifi())

    def connect(self, ssid, password):
        assert (ssid, password) == ("sim", "simulated")

    def disconnect(self):
        pass

    def status(self, name):
        assert name == "rssi"
        return -61

    def config(self, **settings):
        pass

    def ifconfig(self):
        return ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")
