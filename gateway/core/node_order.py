"""In which order a node's messages count: duplicates and older ones are left out.

A node numbers its telemetry within a boot (`seq`), counts its boots (`boot_id`) and draws a random
`session` at each. Sessions never come back: where they do, two devices use one name.
"""

from collections import deque
from enum import StrEnum
from typing import Final

SESSIONS_KEPT: Final = 8
# So many returns to a former session within the time, and two devices share the name.
RETURNS_MAX: Final = 3
RETURNS_NS: Final = 600 * 1_000_000_000


class Place(StrEnum):
    """What a message is beside those before it."""

    NEXT = "next"
    NEW_BOOT = "new_boot"
    DUPLICATE = "duplicate"
    OLDER = "older"
    TWIN = "twin"


class NodeOrder:
    """The order of one device's telemetry. Pure; time comes with the messages."""

    def __init__(self) -> None:
        self.boot_id = -1
        self.seq = -1
        self.session = ""
        self._former: deque[str] = deque(maxlen=SESSIONS_KEPT)
        self._returns: deque[int] = deque(maxlen=RETURNS_MAX)

    def restore(self, boot_id: int, seq: int) -> None:
        """Go on after these, where nothing was seen yet."""
        if not self.session:
            self.boot_id, self.seq = boot_id, seq

    def announced(self, session: str, boot_id: int | None, mono_ns: int) -> Place:
        """A status says that this is the node's present session.

        It may begin again below the boots seen: a node whose memory was erased counts from 1.
        """
        if session == self.session or not session:
            return Place.DUPLICATE
        if session in self._former:
            return self._returned(mono_ns)
        seq = self.seq if self._goes_on(boot_id) else -1
        self._begin(session, -1 if boot_id is None else boot_id, seq)
        return Place.NEW_BOOT

    def place(self, boot_id: int | None, seq: int | None, session: str, mono_ns: int) -> Place:
        """Where telemetry belongs; only NEXT and NEW_BOOT move on.

        Without a sequence (the older form) every message is the next one: there the register
        guard alone tells what is energy.
        """
        if boot_id is None or seq is None:
            return Place.NEXT
        if session in self._former:
            return self._returned(mono_ns)
        if boot_id < self.boot_id or (boot_id == self.boot_id and seq < self.seq):
            if session and self.session and session != self.session:
                # Never the present session, and it speaks: of this boot or one before.
                self._former.append(session)
                return self._returned(mono_ns)
            return Place.OLDER
        if (boot_id, seq) == (self.boot_id, self.seq):
            return Place.DUPLICATE
        is_same = boot_id == self.boot_id and (session == self.session or not self.session)
        if session != self.session:
            self._begin(session, boot_id, seq)
        self.boot_id, self.seq = boot_id, seq
        return Place.NEXT if is_same else Place.NEW_BOOT

    def _goes_on(self, boot_id: int | None) -> bool:
        """Whether a session is that of the boot kept from an earlier run of the gateway."""
        return not self.session and boot_id is not None and boot_id == self.boot_id

    def _begin(self, session: str, boot_id: int, seq: int) -> None:
        if self.session:
            self._former.append(self.session)
        self.session, self.boot_id, self.seq = session, boot_id, seq

    def _returned(self, mono_ns: int) -> Place:
        """TWIN when former sessions keep coming back; a straggler now and then is older."""
        self._returns.append(mono_ns)
        many = len(self._returns) == RETURNS_MAX
        return Place.TWIN if many and mono_ns - self._returns[0] <= RETURNS_NS else Place.OLDER
