"""The node's settings: every key with kind, default and limits; nothing unknown is taken.

Pure. What the gateway or the portal sends is checked whole before any of it counts.
"""

import json

# key: (default, lowest, highest) of a whole number. Times in seconds.
NUMBERS = {
    "poll_s": (1, 1, 60),
    "telemetry_s": (10, 1, 20),  # the gateway takes a node for away after 25 s
    "record_s": (900, 60, 3_600),  # one record of the spool
    "spool_files": (68, 4, 128),  # of 4 KiB: 128 records each
    "p_max_w": (23_000, 100, 100_000),  # what the installation can take: the register guard's
    "max_current_ma": (100_000, 10_000, 100_000),  # of the module: shunt 10 A, transformer 100 A
    "limit_w": (0, 0, 100_000),  # overload; 0: none
    "limit_delay_s": (30, 1, 3_600),
    "limit_hold_s": (120, 1, 3_600),
    "voltage_low_dv": (0, 0, 3_000),  # 0: no limit
    "voltage_high_dv": (0, 0, 3_000),
    "voltage_delay_s": (5, 1, 3_600),
    "voltage_hold_s": (120, 1, 3_600),
    "trip_most": (4, 1, 20),
    "trip_window_s": (1_800, 600, 86_400),  # shorter, and 20 trips wear the relay out
    "keepalive_s": (30, 5, 600),
}
_MOST_MODULES = 3


def defaults():
    """The settings of a node that was never told any."""
    values = {key: NUMBERS[key][0] for key in NUMBERS}
    values["modules"] = [1]
    return values


def changed(settings, changes):
    """New settings: the old ones with changes. Raises ValueError naming the first wrong key."""
    new = dict(settings)
    for key in sorted(changes):
        value = changes[key]
        if key == "modules":
            _check_modules(value)
        elif key not in NUMBERS:
            raise ValueError(f"{key}: unknown")
        else:
            _, low, high = NUMBERS[key]
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{key}: a whole number from {low} to {high}")
        new[key] = value
    low, high = new["voltage_low_dv"], new["voltage_high_dv"]
    if low and high and low >= high:
        raise ValueError("voltage_low_dv: below voltage_high_dv")
    return new


def read(text):
    """Settings from what `write` made. A key that this version does not know, or that is wrong,
    is left at its default: an update never stops a node. Returns (settings, keys left out).
    """
    values, left_out = defaults(), []
    try:
        kept = json.loads(text)
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        return values, ["all"]
    for key in sorted(kept):
        try:
            values = changed(values, {key: kept[key]})
        except ValueError:
            left_out.append(key)
    return values, left_out


def write(settings):
    """The settings as text for their file."""
    return json.dumps(settings)


def _check_modules(value):
    """1 to 3 different addresses: more opto-couplers on one line fail at 3.3 V."""
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_MODULES:
        raise ValueError("modules: 1 to 3 addresses")
    for i in range(len(value)):
        address = value[i]
        if type(address) is not int or not 1 <= address <= 0xF7 or address in value[:i]:
            raise ValueError("modules: different addresses from 1 to 247")
