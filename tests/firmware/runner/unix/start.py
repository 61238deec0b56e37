"""Powers the node on in MicroPython's unix port: boot.py and main.py as they are, and its own
asyncio, ssl and littlefs. Its argument is the directory of the chip's modules (../esp).
"""

import asyncio
import gc
import os
import socket
import ssl  # noqa: F401 - it is loaded, and so found before the one beside the chip's modules
import sys
import time

sys.modules["socket"] = socket
sys.path.append(sys.argv[1])

import chip_socket
import esp32  # noqa: F401 - found by the firmware among the modules that are loaded
import machine
import network  # noqa: F401 - the same
import vfs
import wires
from around import Nodes, timer

_STEP_MS = 5

native_run = asyncio.run
late = {"longest_ms": 0}


async def _watch():
    """How long the loop was not there for others."""
    while True:
        before_ms = time.ticks_ms()
        await asyncio.sleep_ms(_STEP_MS)
        late_ms = time.ticks_diff(time.ticks_ms(), before_ms) - _STEP_MS
        late["longest_ms"] = max(late["longest_ms"], late_ms)


async def _answer():
    """Tell how the node is, whenever the test asks."""
    while True:
        await asyncio.sleep(0.02)
        if wires.asked():
            used = gc.mem_alloc()
            gc.collect()
            held = gc.mem_alloc()
            told = {"used": used, "held": held, "free": gc.mem_free(), "before": before}
            told.update(late)
            wires.tell({"look": told})
            late["longest_ms"] = 0


async def _live(work):
    around = [wires.listen(), _watch()] + [timer(*one) for one in machine.timers]
    if "node.app" in sys.modules:  # a test may have another main.py
        nodes = Nodes(sys.modules["node.app"])
        around += [_answer(), nodes.quarters()]
    tasks = [asyncio.create_task(one) for one in around]
    await work
    del tasks


def _run(work):
    # The board has what it needs: asyncio finds the port's own again.
    sys.modules["socket"] = socket
    return native_run(_live(work))


asyncio.run = _run
sys.modules["socket"] = chip_socket
vfs.umount("/")
vfs.mount(vfs.VfsLfs2(wires.Flash(), progsize=32, readsize=32, lookahead=32), "/")
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]
gc.collect()
before = gc.mem_alloc()
for path in ("/boot.py", "/main.py"):
    with open(path) as file:
        exec(file.read(), {"__name__": "__main__"})
