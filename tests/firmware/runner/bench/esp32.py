"""What the bench's programs use of `esp32`: an NVS in memory."""

from machine import board

values = {}


class NVS:
    def __init__(self, namespace):
        assert namespace == "node"

    def set_blob(self, key, value):
        assert len(key) <= 15
        if key != board.get("forgets"):
            values[key] = bytes(value)

    def get_blob(self, key, buffer):
        if key not in values:
            raise OSError(-4354)
        value = values[key]
        if len(value) > len(buffer):
            raise OSError(-4364)
        buffer[: len(value)] = value
        return len(value)

    def commit(self):
        pass
