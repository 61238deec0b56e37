"""The ESP32's `esp32`: NVS in a file of the host; what is not committed is gone with the boot."""

import binascii
import json

import wires

_NOT_FOUND = -4354
_values = json.loads(wires.nvs_read())


class NVS:
    def __init__(self, namespace):
        assert namespace == "node"
        self._values = _values  # all objects of one boot see the same

    def get_blob(self, key, buffer):
        text = self._values.get(key)
        if text is None:
            raise OSError(_NOT_FOUND)
        value = binascii.unhexlify(text)
        if len(value) > len(buffer):
            raise OSError(-4364)
        buffer[: len(value)] = value
        return len(value)

    def set_blob(self, key, value):
        assert len(key) <= 15
        self._values[key] = binascii.hexlify(value).decode()

    def commit(self):
        wires.nvs_write(json.dumps(self._values))
