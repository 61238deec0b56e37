"""Wishes about ESP32 nodes that the node itself carries out; see `requests.py`."""

from dataclasses import dataclass
from typing import ClassVar

from gateway.core.roles import Role

_FIELD = frozenset({Role.TECHNICIAN, Role.MANAGER})


@dataclass(frozen=True, slots=True)
class SetDevice:
    """Change settings of a node; `document` is a JSON object of core/node_settings.py."""

    TYPE: ClassVar[str] = "set_device"
    ROLES: ClassVar[frozenset[Role]] = _FIELD
    device_id: str
    document: str


@dataclass(frozen=True, slots=True)
class IdentifyDevice:
    """Let a node's lamp blink, so that who stands there finds it."""

    TYPE: ClassVar[str] = "identify_device"
    ROLES: ClassVar[frozenset[Role]] = _FIELD
    device_id: str
    for_s: int = 60


@dataclass(frozen=True, slots=True)
class RestartDevice:
    """Restart a node; its relay stays as it is."""

    TYPE: ClassVar[str] = "restart_device"
    ROLES: ClassVar[frozenset[Role]] = _FIELD
    device_id: str


@dataclass(frozen=True, slots=True)
class ReleaseDevice:
    """Say that the counter which a node holds is its module's, after looking at it.

    With `count` the advance to it was energy; without, the node goes on from it and nothing is
    charged. `module_address` 0 is the first one's.
    """

    TYPE: ClassVar[str] = "release_device"
    ROLES: ClassVar[frozenset[Role]] = _FIELD
    device_id: str
    count: bool
    reason: str
    module_address: int = 0
