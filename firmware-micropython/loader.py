"""Chooses the slot to start: a node comes up with a good application or waits safely.

No update changes this file, so it is small and believes nothing but what it can read.

/slot              `a` or `b`; replaced by rename only
/slot_x/manifest   of a whole slot: {"version", "security", ...}; written last, removed first
/trial             {"slot", "boots"} while slot x has not proved itself; with "failed" it goes back
/failed            the /trial of a slot that was given up, for the application to tell
"""

import json
import os
import sys

SLOTS = ("a", "b")
# Starts without a good minute between: from SPARE on the other slot is tried, at SAFE nothing is.
SPARE_TRIES = 5
SAFE_TRIES = 10
GOOD_MS = 60000
# Safe mode is no dead end: a site whose mains flickered ten times must meter again by itself.
SAFE_MS = 600000
# Until the application sets its own: a slot that hangs at import must not hang for ever.
WATCHDOG_MS = 60000
FEED_MS = 1000

timer = watchdog = None


class Files:
    """The file system of the device, as much as is needed here."""

    def open(self, path, mode):
        return open(path, mode)

    def rename(self, old, new):
        os.rename(old, new)

    def remove(self, path):
        os.remove(path)


class Nvs:
    """Small values in the NVS namespace `node`."""

    def __init__(self):
        import esp32

        self._nvs = esp32.NVS("node")

    def get(self, key):
        """The bytes under a key, at most 4; None when there are none."""
        value = bytearray(4)
        try:
            return bytes(value[: self._nvs.get_blob(key, value)])
        except OSError:
            return None

    def set(self, key, value):
        """Keep bytes; a failing NVS keeps nobody from starting."""
        try:
            self._nvs.set_blob(key, value)
            self._nvs.commit()
        except OSError as error:
            print("loader:", repr(error))


def other(slot):
    """The other slot."""
    return SLOTS[1 - SLOTS.index(slot)]


def manifest(slot):
    """Where the manifest of a slot stands."""
    return f"/slot_{slot}/manifest"


def _read(files, path):
    """A small text file; None when there is none."""
    try:
        with files.open(path, "rb") as file:
            return file.read(16384)
    except OSError:
        return None


def _write(files, path, text):
    """Replace a small file, whole or not at all. Raises OSError."""
    with files.open(path + ".new", "wb") as file:
        file.write(text.encode())
    files.rename(path + ".new", path)


def _remove(files, path):
    try:
        files.remove(path)
    except OSError:
        pass


def pointed(files):
    """The slot of the pointer file; `a` when it cannot be read."""
    text = (_read(files, "/slot") or b"").strip()
    return "b" if text == b"b" else "a"


def security_of(files, slot):
    """The security counter of a whole slot; None for a slot that is not whole."""
    try:
        return int(json.loads(_read(files, manifest(slot)))["security"])
    except (ValueError, TypeError, KeyError):
        return None


def trial_of(files):
    """The trial under way as a dict; None without one. One that cannot be read has failed."""
    text = _read(files, "/trial")
    if text is None:
        return None
    try:
        trial = json.loads(text)
        if trial["slot"] in SLOTS and trial["boots"] >= 0 and trial.get("started", 0) >= 0:
            return trial
    except (ValueError, TypeError, KeyError):
        pass
    return {"slot": pointed(files), "boots": 0}


def give_up(files, trial, reason):
    """Go back from a slot on trial; may be cut anywhere and is then done again. Raises OSError."""
    if "failed" not in trial:
        trial["failed"] = reason
        _write(files, "/trial", json.dumps(trial))
    _write(files, "/slot", other(trial["slot"]))
    _drop(files, trial)


def _drop(files, trial):
    """Forget a trial whose slot is not pointed to; that slot is not started again."""
    _remove(files, manifest(trial["slot"]))
    if "failed" in trial:
        files.rename("/trial", "/failed")
    else:
        files.remove("/trial")


def _judge_trial(files):
    """Count a boot of the trial under way, or end the trial. Raises OSError."""
    trial = trial_of(files)
    if trial is None:
        return
    if trial["slot"] != pointed(files):
        # Cut between the two steps of a switch, there or back.
        _drop(files, trial)
    elif "failed" in trial or trial["boots"] == 0 or security_of(files, trial["slot"]) is None:
        give_up(files, trial, f"started {trial.get('started', 0)} times without proof")
    else:
        trial["boots"] -= 1
        trial["started"] = trial.get("started", 0) + 1
        _write(files, "/trial", json.dumps(trial))


def startable(files, security):
    """The slots that may be started, the one that is pointed to first.

    The spare one must be of no lower security than what proved itself (`security`).
    """
    slot = pointed(files)
    spare = security_of(files, other(slot))
    found = [] if security_of(files, slot) is None else [slot]
    return found if spare is None or spare < security else found + [other(slot)]


def choose(files, security, tries):
    """(slot, whether in safe mode); slot None: nothing can be started, not even the portal.

    `tries`: starts before this one without a good minute between.
    """
    try:
        _judge_trial(files)
    except OSError as error:
        # A full or failing flash: what is there can still be started.
        print("loader:", repr(error))
    slots = startable(files, security)
    if tries < SAFE_TRIES:
        return (slots[tries >= SPARE_TRIES and len(slots) > 1], False) if slots else (None, True)
    # The portal of the first, then of the second, then the REPL alone.
    return (slots + [None, None])[min(tries - SAFE_TRIES, 2)], True


def run(slot, safe):
    """Import the application of a slot and run it, or its portal only (`safe`)."""
    sys.path.insert(0, "/slot_" + slot)
    import node.app

    return node.app.safe(slot) if safe else node.app.main(slot)


def stay():
    """For a person at the REPL: no watchdog and no way out of safe mode until the next reset."""
    feed = watchdog.feed if watchdog else lambda: None
    timer.init(mode=timer.PERIODIC, period=FEED_MS, callback=lambda _: feed())


def start(files, nvs, machine, run):
    """Choose and run. Ends in a reset; safe mode returns to the REPL when its portal ends.

    `machine`: Timer, WDT, reset as in MicroPython.
    """
    global timer, watchdog
    watchdog = None
    tries = (nvs.get("tries") or b"\0")[0]
    nvs.set("tries", bytes([min(tries + 1, SAFE_TRIES + 2)]))
    slot, safe = choose(files, int.from_bytes(nvs.get("security") or b"", "big"), tries)

    def settle(_):
        nvs.set("tries", b"\0")
        if safe:
            machine.reset()

    # Timer 0 is the loader's.
    timer = machine.Timer(0)
    period = SAFE_MS if safe else GOOD_MS
    timer.init(mode=machine.Timer.ONE_SHOT, period=period, callback=settle)
    reason = "the application ended"
    if safe:
        print("loader: safe mode")
    else:
        watchdog = machine.WDT(timeout=WATCHDOG_MS)
    try:
        if slot:
            run(slot, safe)
    except Exception as error:
        reason = repr(error)[:200]
        print("loader:", reason)
    if safe:
        return
    try:
        trial = trial_of(files)
        if trial is not None and trial["slot"] == slot:
            give_up(files, trial, reason)
    except OSError as error:
        print("loader:", repr(error))
    machine.reset()
