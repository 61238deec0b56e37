"""An application that does what /plan says for its version; released with the node's own update."""

import json

import device_board
import machine

from node import keys, update

VERSION = "VERSION"


class NoWait:
    """This MicroPython cannot block in asyncio.run: the coroutine runs through without a pause."""

    @staticmethod
    async def sleep(seconds):
        pass


def fetched(board, slot):
    with open("/bundle", "rb") as file:
        bundle = file.read()
    with open("/offer") as file:
        offer = json.load(file)
    work = update.Update(board, slot, keys.KEYS)
    work.begin(offer["version"], len(bundle), offer["sha256"], offer["security"])
    while not work.complete():
        offset, count = work.want()
        work.take(offset, bundle[offset : offset + count])
    return work


def main(slot):
    board = device_board.Board()
    trial = update.Trial(board, slot)
    machine.journal.append(["started", VERSION, slot, trial.under_way])
    with open("/plan") as file:
        plan = json.load(file)[VERSION]
    if plan == "raise":
        raise ValueError("on purpose")
    if plan == "deaf":
        board.now_ms = update.TRIAL_MS
        trial.check()
    if plan == "prove":
        for need in update.NEEDS:
            trial.note(need)
        machine.journal.append([trial.check() or "running"])
    if plan == "update":
        work = fetched(board, slot)
        update.asyncio = NoWait
        try:
            work.install().send(None)
        except StopIteration:
            pass
        except update.UpdateError as error:
            machine.journal.append(["refused", error.code])
    board.reset()


def safe(slot):
    machine.journal.append(["portal", VERSION, slot])
