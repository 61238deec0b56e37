# In place of main.py: the node's own client and board, connecting over TLS again and again.
import sys

sys.path.insert(0, "/slot_a")

import asyncio
import gc
import json

import wires

from node import board_esp32, mqtt
from node.sealed import mqtt_password

BETWEEN = 20

board = board_esp32.Board()
broker = json.loads(board.nvs_get("broker"))
user = board.nvs_get("device_id").decode()
login = (user, mqtt_password(board.nvs_get("secret")))
board.set_unix_s(int.from_bytes(board.nvs_get("time"), "big"))


async def session(host):
    """One connection with a message of 8 KiB."""
    tls = {"ca": broker["ca"].encode(), "host": host}
    made = mqtt.Client(board, user, login, None, keepalive_s=30, timeout_s=5, most_bytes=2_304)
    try:
        await made.connect("127.0.0.1", broker["port"], tls)
        await made.publish(f"smartmeter/{user}/backlog", b"x" * 8_192)
        await made.disconnect()
    finally:
        made.abort()


async def go():
    """Two good ones, one with a stranger, and so on for ever."""
    count = refused = 0
    while True:
        stranger = count % 3 == 2
        try:
            await session("elsewhere" if stranger else "localhost")
            assert not stranger
        except ValueError:
            refused += 1
            assert stranger
        count += 1
        if count % BETWEEN == 0:
            await asyncio.sleep(0.01)  # what is closed is closed by a task
            gc.collect()
            wires.tell({"count": count, "refused": refused, "held": gc.mem_alloc()})


asyncio.run(go())
