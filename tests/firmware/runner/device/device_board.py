"""The board for the update's code, over MicroPython's own files."""

import os

import esp32
import machine


class Files:
    def open(self, path, mode):
        return open(path, mode)

    def rename(self, old, new):
        os.rename(old, new)

    def remove(self, path):
        os.remove(path)

    def mkdir(self, path):
        os.mkdir(path)

    def listdir(self, path):
        return os.listdir(path)

    def stat_size(self, path):
        try:
            return os.stat(path)[6]
        except OSError:
            return None

    def free_bytes(self):
        return 1000000

    def sync(self):
        pass


class Board:
    def __init__(self):
        self.files = Files()
        self.nvs = esp32.NVS("node")
        self.now_ms = 0

    def nvs_get(self, key):
        value = bytearray(64)
        try:
            return bytes(value[: self.nvs.get_blob(key, value)])
        except OSError:
            return None

    def nvs_set(self, key, value):
        self.nvs.set_blob(key, value)

    def nvs_commit(self):
        self.nvs.commit()

    def ticks_ms(self):
        return self.now_ms

    def ticks_diff(self, later, earlier):
        return later - earlier

    def reset(self):
        machine.reset()
