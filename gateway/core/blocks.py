"""The reasons that block a supply: which stand, who set them, and which something holds back.

A reason that is held back (by an override, by friendly hours) is due and does not act: supply stays
intended closed until it is let go. Each reason is cleared only by its own rule; one that several
set is gone when the last of them has taken it back.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, cast

from gateway.core.switching import Reason

# Whoever sets a reason without saying who he is.
ANYBODY: Final = ""


class Blocks:
    """Reasons of one supply. `suspended` are those that are held back now."""

    def __init__(self) -> None:
        self.standing: set[Reason] = set()
        self.held_back: set[Reason] = set()
        self.suspended: frozenset[Reason] = frozenset()
        self._owners: dict[Reason, set[str]] = {}

    def add(self, reason: Reason, owner: str = ANYBODY) -> bool:
        """Set a reason for an owner; True when it is new."""
        self._owners.setdefault(reason, set()).add(owner)
        if reason in self.standing or reason in self.held_back:
            return False
        (self.held_back if reason in self.suspended else self.standing).add(reason)
        return True

    def remove(self, reason: Reason, owner: str | None = None) -> bool:
        """Take a reason back, of one owner or (None) of all; True when that owner had set it."""
        owners = self._owners.get(reason, {ANYBODY} if reason in self.standing else set())
        if owner is not None and owner not in owners:
            return False
        left = set() if owner is None else owners - {owner}
        if left:
            self._owners[reason] = left
            return True
        self._owners.pop(reason, None)
        stood = reason in self.standing or reason in self.held_back
        self.standing.discard(reason)
        self.held_back.discard(reason)
        return stood

    def owners_of(self, reason: Reason) -> frozenset[str]:
        """Who set a reason that stands."""
        return frozenset(self._owners.get(reason, ()))

    def suspend(self, reasons: frozenset[Reason], *, movable: bool) -> frozenset[Reason]:
        """Hold these back from now on, and no others; those that act again by it.

        Reasons that act already are held back only where they are `movable`: what has opened a
        supply is not taken back by this.
        """
        self.suspended = reasons
        freed = frozenset(self.held_back - reasons)
        self.held_back -= freed
        self.standing |= freed
        if movable:
            moved = self.standing & reasons
            self.standing -= moved
            self.held_back |= moved
        return freed

    def snapshot(self) -> dict[str, object]:
        """JSON values; `reasons` as snapshots always had them."""
        return {
            "reasons": sorted(self.standing),
            "held_back": sorted(self.held_back),
            "owners": {
                reason.value: sorted(owners)
                for reason, owners in sorted(self._owners.items())
                if owners != {ANYBODY}
            },
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take up a snapshot; one without owners was everybody's."""
        self.standing.clear()
        self.standing.update(_named(cast("Iterable[str]", state["reasons"])))
        self.held_back = _named(cast("Iterable[str]", state.get("held_back", ())))
        self._owners = {reason: {ANYBODY} for reason in self.standing | self.held_back}
        owners = cast("Mapping[str, Sequence[str]]", state.get("owners", {}))
        self._owners.update({Reason(name): set(who) for name, who in owners.items()})

    def discard(self, reasons: Collection[Reason]) -> None:
        """Forget reasons that may not stand at this point at all."""
        for reason in reasons:
            self.remove(reason)


def _named(names: Iterable[str]) -> set[Reason]:
    return {Reason(name) for name in names}
