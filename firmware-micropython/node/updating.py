"""Update of the running node: chunks asked for one at a time over MQTT, then install and restart.

Metering and relay go on meanwhile. A chunk that does not come is asked for again.
"""

import asyncio

from node import keys, update
from node.bundle import UpdateError
from node.port import const

_OFFSET_BYTES = const(4)
_STEP_MASK = const(~0x1FFF)
_AGAIN_S = const(5)
_LOOK_S = 0.5
_BEAT_S = const(600)  # an install on a worn flash


class Updating:
    """One update of one node; `topic` brings its chunks: offset (u32, big-endian), bytes."""

    def __init__(self, node):
        self._node = node
        self._update = update.Update(node.board, node.slot, keys.KEYS)
        self._asked_s = None
        self._failed = update.failure(node.board.files)

    def state(self):
        """What the status tells; None: nothing. The offset in steps: no status for every chunk."""
        work = self._update
        if work.size:
            offset = work.offset if work.complete() else work.offset & _STEP_MASK
            return {"version": work.version, "offset": offset, "size": work.size}
        return self._failed

    def begin(self, args):
        """Start fetching. Raises UpdateError."""
        self._update.begin(args["version"], args["size"], args["sha256"], args["security"])
        self._failed = None
        update.forget_failure(self._node.board.files)
        self._asked_s = None

    def stop(self, version):
        """The gateway has no more of this version to give: what was fetched of it is given up.

        Returns what is to say of it. One that is complete is installed all the same.
        """
        work, told = self._update, "nothing of it is being fetched"
        if work.want() and work.version == version:
            told = f"given up at {work.offset} of {work.size} bytes"
            work.forget()
        return told

    def tell_failure(self):
        """An event for an update that the loader took back; `/failed` keeps it, not the journal."""
        if self._failed:
            self._node.events.add(
                "update_failed",
                keep=False,
                code="UPDATE_BACK",
                message=self._failed["failed"][:64],
            )

    def heard(self):
        """The gateway works with this version: what failed before it has been told."""
        if self._failed:
            try:
                update.forget_failure(self._node.board.files)
            except OSError:
                pass  # it is told once more

    @property
    def active(self):
        """Whether an update is being fetched."""
        return self._update.size > 0

    def want(self):
        """The event that asks for the next chunk, when it is time to, else None."""
        wanted = self._update.want()
        now_s = self._node.clock.now_s()
        if not wanted or (self._asked_s is not None and now_s - self._asked_s < _AGAIN_S):
            return None
        self._asked_s = now_s
        return {"version": self._update.version, "offset": wanted[0], "count": wanted[1]}

    def take(self, message):
        """A chunk came."""
        if len(message) <= _OFFSET_BYTES:
            return
        offset = int.from_bytes(message[:_OFFSET_BYTES], "big")
        try:
            if self._update.take(offset, message[_OFFSET_BYTES:]):
                self._asked_s = None
        except UpdateError as error:
            self._fail(error)
        self._node.wake.set()

    async def run(self):
        """Verify, unpack, switch and ask for a restart, once everything is there; for ever."""
        while True:
            supervisor = self._node.supervisor
            supervisor.beat("update", _BEAT_S)
            if self._update.complete() and not supervisor.restart_reason:
                try:
                    await self._update.install()
                except UpdateError as error:
                    self._fail(error)
                else:
                    supervisor.restart("update")
            await asyncio.sleep(_LOOK_S)

    def _fail(self, error):
        self._node.events.add("update_failed", code=error.code, message=error.message[:64])
        self._failed = {"version": self._update.version, "failed": error.code}
        self._update.forget()
