"""Readings that a node kept come before its live ones: how long those wait, what is safe."""

from dataclasses import dataclass
from typing import Final

NS: Final = 1_000_000_000
# So long live readings wait for kept ones that do not come.
WAIT_NS: Final = 60 * NS
# The same while our own clock is in doubt, and kept ones cannot be taken: a time service needs a
# while after a power cut. What is live is settled without them then, and they are passed over.
WAIT_FOR_CLOCK_NS: Final = 300 * NS
# The sweep under way may have begun without a segment: the one after it has all of it.
SWEEPS: Final = 2


@dataclass(slots=True)
class Draining:
    """The kept readings of one device. Pure; times are monotonic.

    `count` is how many it says to have. Live readings wait once a session; those that came although
    kept ones have not are followed by live ones alone.
    """

    count: int = 0
    _session: str = ""
    _since_ns: int | None = None
    _until_ns: int = 0
    _is_over: bool = False
    _segment: int | None = None
    _sweeps: int = 0

    def announced(self, count: int, session: str, now_ns: int) -> None:
        """A session says how many readings it has kept."""
        if session != self._session:
            self._session, self._is_over = session, False
        self.count = count
        if not count:
            self._since_ns = None
        elif self._since_ns is None and not self._is_over:
            self._since_ns, self._until_ns = now_ns, now_ns + WAIT_NS

    def holds(self, now_ns: int) -> bool:
        """Whether a live reading waits; the first that does not ends it for this session."""
        if self._since_ns is None:
            return False
        if now_ns < self._until_ns:
            return True
        self._since_ns, self._is_over = None, True
        return False

    def postponed(self, now_ns: int) -> None:
        """A segment came that cannot be taken before our own clock is trusted."""
        if self._since_ns is not None and now_ns < self._until_ns:
            self._until_ns = max(self._until_ns, self._since_ns + WAIT_FOR_CLOCK_NS)

    def moved(self, now_ns: int) -> None:
        """A kept reading counted: live ones wait for the next."""
        self._is_over = False
        self._since_ns = now_ns if self._since_ns is None else self._since_ns
        self._until_ns = now_ns + WAIT_NS

    def taken(self, segment: int) -> None:
        """A segment was gone through: to be acknowledged once it is committed."""
        self._segment, self._sweeps = segment, SWEEPS

    def swept(self) -> int | None:
        """A sweep was committed; the segment that is safe with it."""
        self._sweeps -= 1
        if self._segment is None or self._sweeps > 0:
            return None
        segment, self._segment = self._segment, None
        return segment
