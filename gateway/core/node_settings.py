"""Settings of an ESP32 node as its firmware takes them: names, limits, and what they refuse.

The firmware's own table (`firmware-micropython/node/settings.py`) decides; a test keeps this one
equal to it, so that what a node would refuse is refused before anything is sent.
"""

from collections.abc import Mapping
from typing import Final

from gateway.core.errors import RefusedError

# Lowest and highest whole number. Times in seconds.
NUMBERS: Final[Mapping[str, tuple[int, int]]] = {
    "poll_s": (1, 60),
    "telemetry_s": (1, 20),
    "record_s": (60, 3_600),
    "spool_files": (4, 128),
    "p_max_w": (100, 100_000),
    "max_current_ma": (10_000, 100_000),
    "limit_w": (0, 100_000),
    "limit_delay_s": (1, 3_600),
    "limit_hold_s": (1, 3_600),
    "voltage_low_dv": (0, 3_000),
    "voltage_high_dv": (0, 3_000),
    "voltage_delay_s": (1, 3_600),
    "voltage_hold_s": (1, 3_600),
    "trip_most": (1, 20),
    "trip_window_s": (600, 86_400),
    "keepalive_s": (5, 600),
}
MODULES: Final = "modules"
MODULES_MAX: Final = 3
MODULE_ADDRESS_MAX: Final = 0xF7

Settings = Mapping[str, int | list[int]]


def check_settings(changes: Mapping[str, object]) -> dict[str, int | list[int]]:
    """Changes of settings that every node takes, in themselves.

    Raises RefusedError SETTING_UNKNOWN, SETTING_RANGE with the place, never the value: a person may
    have typed anything.
    """
    if not changes:
        raise RefusedError("SETTING_UNKNOWN", "name at least one setting", "settings")
    checked: dict[str, int | list[int]] = {}
    for name, value in changes.items():
        if name == MODULES:
            checked[name] = _modules(value)
            continue
        limits = NUMBERS.get(name)
        if limits is None:
            known = ", ".join([*NUMBERS, MODULES])
            raise RefusedError("SETTING_UNKNOWN", f"a node's settings are {known}", "settings")
        low, high = limits
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise RefusedError(
                "SETTING_RANGE", f"{name}: a whole number from {low} to {high}", f"settings.{name}"
            )
        checked[name] = value
    low_dv, high_dv = checked.get("voltage_low_dv"), checked.get("voltage_high_dv")
    if isinstance(low_dv, int) and isinstance(high_dv, int) and low_dv and 0 < high_dv <= low_dv:
        raise RefusedError(
            "SETTING_RANGE", "voltage_low_dv: below voltage_high_dv", "settings.voltage_low_dv"
        )
    return checked


def _modules(value: object) -> list[int]:
    addresses = value if isinstance(value, list) else []
    right = all(
        isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= MODULE_ADDRESS_MAX
        for one in addresses
    )
    if not right or not 1 <= len(addresses) <= MODULES_MAX:
        raise RefusedError(
            "SETTING_RANGE",
            f"modules: 1 to {MODULES_MAX} addresses from 1 to {MODULE_ADDRESS_MAX}",
            "settings.modules",
        )
    if len(set(addresses)) != len(addresses):
        raise RefusedError("SETTING_RANGE", "modules: different addresses", "settings.modules")
    return list(addresses)
