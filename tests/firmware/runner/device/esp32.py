"""The ESP32's `esp32`: its NVS, kept in a file so that it outlives a boot."""

import binascii
import json

PATH = "/nvs.json"


def load():
    with open(PATH) as file:
        return json.load(file)


class NVS:
    def __init__(self, namespace):
        self.values = load()

    def get_blob(self, key, buffer):
        if key not in self.values:
            raise OSError(-4354)
        value = binascii.unhexlify(self.values[key])
        buffer[: len(value)] = value
        return len(value)

    def set_blob(self, key, value):
        self.values[key] = binascii.hexlify(value).decode()

    def commit(self):
        with open(PATH, "w") as file:
            json.dump(self.values, file)
