"""Wishes about firmware of nodes: images and their staged roll-outs; see `requests.py`."""

from dataclasses import dataclass
from typing import ClassVar

from gateway.core.roles import Role


@dataclass(frozen=True, slots=True)
class AddImage:
    """Keep a signed bundle, which was uploaded with the wish, to be rolled out.

    `sha256` (hex) and `size` are the bundle's: the same bytes are the same wish.
    """

    TYPE: ClassVar[str] = "add_image"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Forget an image that no roll-out needs any more."""

    TYPE: ClassVar[str] = "remove_image"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    sha256: str


@dataclass(frozen=True, slots=True)
class BeginRollout:
    """Bring an image to nodes in stages (core/rollout_plan.py); without `device_ids` to all."""

    TYPE: ClassVar[str] = "begin_rollout"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    sha256: str
    stages: tuple[int, ...]
    observe_s: int
    failures_max: int
    parallel_max: int
    offline_s: int
    device_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PauseRollout:
    """Begin and serve no node for now; what nodes install already they finish."""

    TYPE: ClassVar[str] = "pause_rollout"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    rollout: int
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeRollout:
    """Go on with a roll-out that was paused."""

    TYPE: ClassVar[str] = "resume_rollout"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    rollout: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopRollout:
    """End a roll-out for good; nodes that did not install yet stay as they are."""

    TYPE: ClassVar[str] = "stop_rollout"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    rollout: int
    reason: str
