"""Keeps the tasks alive, feeds the watchdog while all of them are, and asks for a clean restart.

Nothing here moves the relay: it holds its level through every reset.
"""

import asyncio
import gc

from node.port import const

_WINDOW_S = const(600)
_MOST_FAILURES = const(5)
_MOST_MEMORY = const(3)
_MOST_CHARACTERS = const(96)
_PAUSE_S = 1


class Supervisor:
    """Heartbeats of named tasks; `restart_reason` is set when the node is to restart."""

    def __init__(self, clock, events, feed):
        self._clock = clock
        self._events = events
        self._feed = feed
        self._beats = {}  # name -> [last second, limit in s]
        self._failures_s = []
        self._memory_s = []
        self.restart_reason = None
        self.last_error = None

    def beat(self, name, limit_s):
        """A task works; its next beat is due in `limit_s`."""
        self._beats[name] = (self._clock.now_s(), limit_s)

    def stale(self):
        """The names of tasks whose beat is overdue, sorted."""
        now_s = self._clock.now_s()
        return sorted(n for n, (at_s, limit_s) in self._beats.items() if now_s - at_s > limit_s)

    def step(self):
        """Feed the watchdog if every task works. Returns whether it was fed."""
        if self.stale():
            return False
        self._feed()
        return True

    def restart(self, reason):
        """Ask for a restart; the first reason counts."""
        self.restart_reason = self.restart_reason or reason

    async def keep(self, work):
        """Run a task for ever: what it raises is counted, and it starts again."""
        while True:
            try:
                await work()
            except MemoryError:
                self.memory_failed()
            except Exception as error:
                self._failed(error)
            await asyncio.sleep(_PAUSE_S)

    def memory_failed(self):
        """An allocation failed: collect; the third time in ten minutes asks for a restart."""
        gc.collect()
        self._memory_s = self._recent(self._memory_s)
        if len(self._memory_s) == 1:
            self._events.add("memory_low")
        if len(self._memory_s) >= _MOST_MEMORY:
            self.restart("memory")

    def tell(self, error):
        """An error that nobody expected, as an event; the same one in a row once."""
        words = " ".join(str(error).split())
        message = (error.__class__.__name__ + ": " + words)[:_MOST_CHARACTERS]
        if message != self.last_error:
            self.last_error = message
            self._events.add("task_failed", message=message)

    def _failed(self, error):
        self.tell(error)
        self._failures_s = self._recent(self._failures_s)
        if len(self._failures_s) >= _MOST_FAILURES:
            self.restart("failures")

    def _recent(self, times_s):
        now_s = self._clock.now_s()
        return [t for t in times_s if now_s - t < _WINDOW_S] + [now_s]
