"""A staged roll-out of firmware to nodes, as a state machine.

Pure: whoever runs it says once in a while what is seen of each device and how much time passed,
sends what `offers` names, and keeps `take_changes` on file; from there it goes on after a crash at
any moment. Time while the gateway is off, or its broker away, counts for nothing.

An offer may be repeated: a node that has the image's first bytes goes on behind them, one that runs
it is seen to. So a device gets an image once, and its end is counted once, in its own row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.rollout_plan import (
    ACTIVE,
    AWAY,
    ENDED,
    LEFT_OUT_MS,
    QUIET_MS,
    STALL_MS,
    ChunkAsk,
    Head,
    Image,
    Member,
    News,
    Phase,
    Plan,
    Seen,
    Skip,
    State,
    ask_problem,
    count_of,
    skip_of,
)

# Answers to an offer that say: later.
NOT_NOW: Final = frozenset({"WRONG_SESSION", "REPLAYED", "EXPIRED", "CLOCK_UNSET", "UPDATE_TRIAL"})
# Until here nothing of a node has changed: it can be taken back.
REVOCABLE: Final = frozenset({Phase.WAITING, Phase.OFFERED, Phase.FETCHING})


class Rollout:
    """One roll-out. `members` keep the order in which devices get their turn."""

    def __init__(
        self,
        number: int,
        image: Image,
        plan: Plan,
        members: Sequence[Member],
        head: Head | None = None,
    ) -> None:
        kept = head or Head()
        self.number: Final = number
        self.image: Final = image
        self.plan: Final = plan
        self.members: Final = tuple(members)
        self.state, self.stage, self.base = kept.state, kept.stage, kept.base
        self.observed_ms, self.lull_ms, self.why = kept.observed_ms, kept.lull_ms, kept.why
        self._by_id = {member.device_id: member for member in self.members}
        self._news: list[News] = []
        self._changed: set[str] = set()
        self._head_changed = False
        self._aged = False

    # -- what a caller asks ----------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether anything may still happen: a stopped one follows what it cannot take back."""
        return self.state not in ENDED or any(m.phase in ACTIVE for m in self.members)

    @property
    def head(self) -> Head:
        """Everything of it but its devices."""
        return Head(self.state, self.stage, self.base, self.observed_ms, self.lull_ms, self.why)

    def member(self, device_id: str) -> Member | None:
        """A device of it; None for any other."""
        return self._by_id.get(device_id)

    def holds(self, device_id: str) -> bool:
        """Whether no other roll-out may have this device."""
        member = self._by_id.get(device_id)
        if member is None:
            return False
        if self.state in ENDED:
            return member.phase in ACTIVE
        return member.phase not in (Phase.FAILED, Phase.SKIPPED)

    def take_news(self) -> list[News]:
        """What happened since the last call."""
        told, self._news = self._news, []
        return told

    def take_changes(self, *, aged: bool = False) -> list[tuple[int, Member]] | None:
        """Copies of the members that changed, by their places; None where nothing did at all.

        With `aged` all of them where time went on.
        """
        if aged and self._aged:
            self._aged, self._head_changed = False, True
            self._changed.update(m.device_id for m in self.members if m.phase is not Phase.SKIPPED)
        if not self._head_changed and not self._changed:
            return None
        names, self._changed, self._head_changed = self._changed, set(), False
        return [
            (place, replace(member))
            for place, member in enumerate(self.members)
            if member.device_id in names
        ]

    # -- what persons decide ---------------------------------------------------------------

    def begin(self, seen: Mapping[str, Seen]) -> None:
        """Leave out whom it is not for. Raises RefusedError ROLLOUT_EMPTY."""
        for member in self.members:
            if member.phase is Phase.WAITING:
                self._judge(member, seen.get(member.device_id, AWAY))
        self.base = sum(member.phase is Phase.WAITING for member in self.members)
        if not self.base:
            reasons = sorted({member.code for member in self.members})
            why = f" ({', '.join(reasons)})" if reasons else ""
            raise RefusedError("ROLLOUT_EMPTY", f"no device would get this image{why}", "devices")
        self._head_changed = True
        self._changed.update(self._by_id)
        self._news.append(News("ROLLOUT_BEGUN"))

    def pause(self) -> None:
        """Begin and serve nobody for now. Raises RefusedError ROLLOUT_STATE."""
        self._expect(State.RUNNING)
        self._turn(State.PAUSED, "ROLLOUT_PAUSED")

    def resume(self) -> None:
        """Go on. Raises RefusedError ROLLOUT_STATE."""
        self._expect(State.PAUSED)
        self._turn(State.RUNNING, "ROLLOUT_RESUMED")

    def stop(self, why: str) -> None:
        """End it for good. Raises RefusedError ROLLOUT_STATE."""
        self._expect(State.RUNNING, State.PAUSED)
        self._stop(why)

    # -- what nodes do ---------------------------------------------------------------------

    def look(self, seen: Mapping[str, Seen], elapsed_ms: int) -> None:
        """Take in what is seen of the devices, `elapsed_ms` after the last look; go on."""
        self._aged = self._aged or elapsed_ms > 0
        for member in self.members:
            self._look_at(member, seen.get(member.device_id, AWAY), elapsed_ms)
        self._stop_if_failed()
        if self.state is State.RUNNING:
            self._go_on(seen, elapsed_ms)
            self._stop_if_failed()

    def offers(self, seen: Mapping[str, Seen]) -> list[str]:
        """The devices that are to be told of the image now, perhaps once more.

        `seen` is that of the last look.
        """
        if self.state is not State.RUNNING:
            return []
        return [
            member.device_id
            for member in self.members
            if member.phase in ACTIVE and self._needs_offer(member, seen.get(member.device_id))
        ]

    def accepted(self, device_id: str, session: str) -> None:
        """A device took the offer in this session."""
        member = self._by_id[device_id]
        if member.phase not in ACTIVE or member.phase is Phase.TRIAL:
            return
        member.session = session
        if member.phase is Phase.OFFERED:
            self._enter(member, Phase.FETCHING)
        self._progress(member, 1)
        self._changed.add(device_id)

    def refused(self, device_id: str, code: str, message: str) -> None:
        """A device refused the offer."""
        member = self._by_id[device_id]
        if member.phase not in ACTIVE or code in NOT_NOW:
            return
        if code == "UNKNOWN_TYPE":
            self._skip(member, Skip.THIRD_PARTY)
        else:
            self._fail(member, code, message)
            self._stop_if_failed()

    def asked(self, device_id: str, ask: ChunkAsk) -> bool:
        """Whether a wish for a chunk is to be served; one with an `ask_problem` never is.

        With the last chunk the device installs: nobody takes that back.
        """
        member = self._by_id.get(device_id)
        if member is None or self.state is not State.RUNNING or ask_problem(self.image, ask):
            return False
        if member.phase not in (Phase.OFFERED, Phase.FETCHING, Phase.INSTALLING):
            return False
        is_last = ask.offset + ask.count == self.image.size
        if not is_last and member.phase is not Phase.FETCHING:
            # Its answer to the offer was lost, or it has not got everything after all.
            self._enter(member, Phase.FETCHING)
        member.session = ask.session
        self._reached(member, ask.offset)
        if is_last and member.phase is not Phase.INSTALLING:
            self._enter(member, Phase.INSTALLING)
        return True

    # -- one device ------------------------------------------------------------------------

    def _look_at(self, member: Member, seen: Seen, elapsed_ms: int) -> None:
        if member.phase is Phase.WAITING:
            if not self._judge(member, seen) and self.state is State.RUNNING:
                member.away_ms = 0 if seen.present else member.away_ms + elapsed_ms
                if member.away_ms >= LEFT_OUT_MS:
                    self._skip(member, Skip.OFFLINE)
        elif member.phase in ACTIVE:
            self._follow(member, seen, elapsed_ms)
        elif member.phase is Phase.DONE and self.state not in ENDED:
            fell = seen.present and seen.firmware not in ("", self.image.version)
            if fell:
                self._fail(member, "UPDATE_BACK", f"it went back to {seen.firmware}")

    def _judge(self, member: Member, seen: Seen) -> bool:
        """Whether a device that waits is left out from now on."""
        why = skip_of(self.image, seen)
        if why is not None:
            self._skip(member, why)
        return why is not None

    def _follow(self, member: Member, seen: Seen, elapsed_ms: int) -> None:
        """A device between offer and end."""
        if not seen.approved:
            self._skip(member, Skip.NOT_APPROVED)
        elif not seen.present:
            self._miss(member, elapsed_ms)
        elif seen.firmware == self.image.version:
            self._arrived(member, seen, elapsed_ms)
        else:
            self._under_way(member, seen, elapsed_ms)

    def _arrived(self, member: Member, seen: Seen, elapsed_ms: int) -> None:
        """It runs the image: on trial, or for good."""
        member.away_ms = 0
        if not seen.on_trial:
            self._enter(member, Phase.DONE)
            member.quiet_ms = 0
            self._news.append(News("ROLLOUT_DEVICE_DONE", member.device_id))
            return
        if member.phase is not Phase.TRIAL:
            self._enter(member, Phase.TRIAL)
        self._progress(member, self.image.size + 3)
        self._age(member, elapsed_ms)

    def _under_way(self, member: Member, seen: Seen, elapsed_ms: int) -> None:
        """It runs what it ran before, or something else."""
        member.away_ms = 0
        of_this = seen.update_version == self.image.version
        restarted = seen.session != member.session
        if of_this and seen.failed and (restarted or member.phase is not Phase.OFFERED):
            # In its own session a node tells the code of what it refused, after a restart why it
            # went back.
            code = "UPDATE_BACK" if restarted else seen.failed
            self._fail(member, code, seen.failed if restarted else seen.note)
            return
        if member.phase is Phase.TRIAL:
            self._fail(member, "UPDATE_BACK", f"it went back to {seen.firmware}, and says not why")
            return
        if of_this and seen.offset is not None and not restarted:
            if member.phase is Phase.OFFERED:
                self._enter(member, Phase.FETCHING)
            # A status may lag behind the wish for the next chunk.
            self._reached(member, max(member.offset, min(seen.offset, self.image.size)))
        if self.state is State.PAUSED and member.phase is not Phase.INSTALLING:
            return
        self._age(member, elapsed_ms)

    def _miss(self, member: Member, elapsed_ms: int) -> None:
        """Nothing is heard of a device whose update is under way."""
        revocable = member.phase in REVOCABLE
        if self.state is State.PAUSED and revocable:
            return
        member.away_ms += elapsed_ms
        if member.away_ms < self.plan.offline_s * 1_000:
            return
        if revocable:
            # It keeps what it has fetched, and others need not wait for it.
            self._enter(member, Phase.WAITING)
            member.session, member.best, member.quiet_ms = "", 0, 0
        else:
            minutes = member.away_ms // 60_000
            self._fail(member, "ROLLOUT_SILENT", f"not heard for {minutes} min since it installed")

    def _age(self, member: Member, elapsed_ms: int) -> None:
        member.quiet_ms += elapsed_ms
        if member.quiet_ms >= QUIET_MS:
            minutes = member.quiet_ms // 60_000
            self._fail(
                member, "ROLLOUT_DEADLINE", f"{minutes} min without progress: {member.phase}"
            )

    def _needs_offer(self, member: Member, seen: Seen | None) -> bool:
        if seen is None or not self._is_ready(seen):
            return False
        restarted = seen.session != member.session
        if member.phase is Phase.FETCHING:
            return restarted or member.quiet_ms >= STALL_MS
        return member.phase is Phase.OFFERED or (member.phase is Phase.INSTALLING and restarted)

    def _reached(self, member: Member, offset: int) -> None:
        if offset != member.offset:
            member.offset = offset
            self._changed.add(member.device_id)
        self._progress(member, 1 + offset)
        if offset == self.image.size and member.phase is Phase.FETCHING:
            self._enter(member, Phase.INSTALLING)

    def _progress(self, member: Member, score: int) -> None:
        if score > member.best:
            member.best, member.quiet_ms = score, 0

    def _enter(self, member: Member, phase: Phase) -> None:
        member.phase = phase
        self._changed.add(member.device_id)

    def _skip(self, member: Member, why: Skip) -> None:
        self._enter(member, Phase.SKIPPED)
        member.code = why.value

    def _fail(self, member: Member, code: str, reason: str) -> None:
        self._enter(member, Phase.FAILED)
        member.code, member.reason = code, reason
        self.observed_ms, self._head_changed = 0, True
        self._news.append(News("ROLLOUT_DEVICE_FAILED", member.device_id, code, reason))

    # -- the whole -------------------------------------------------------------------------

    def _go_on(self, seen: Mapping[str, Seen], elapsed_ms: int) -> None:
        waiting = [m for m in self.members if m.phase is Phase.WAITING]
        active = sum(m.phase in ACTIVE for m in self.members)
        if not waiting and not active:
            self._turn(State.COMPLETED, "ROLLOUT_COMPLETED")
            return
        done = count_of(self.members, Phase.DONE)
        limit = self.plan.limit(self.stage, self.base, len(waiting) + active + done)
        room = max(0, min(limit - done - active, self.plan.parallel_max - active))
        ready = [m for m in waiting if self._is_ready(seen.get(m.device_id, AWAY))][:room]
        for member in ready:
            self._start(member, seen[member.device_id])
        if ready or active:
            self.observed_ms = self.lull_ms = 0
            return
        last = self.stage == len(self.plan.stages) - 1
        if done < limit:
            # Nobody that it could go on with is there.
            self.lull_ms += elapsed_ms
            if last or not done or self.lull_ms < self.plan.offline_s * 1_000:
                return
        if not last:
            self._observe(seen, elapsed_ms)

    @staticmethod
    def _is_ready(seen: Seen) -> bool:
        return seen.present and not seen.busy and not seen.on_trial

    def _start(self, member: Member, seen: Seen) -> None:
        self._enter(member, Phase.OFFERED)
        member.stage, member.session = self.stage, seen.session
        member.best = member.quiet_ms = member.away_ms = 0

    def _observe(self, seen: Mapping[str, Seen], elapsed_ms: int) -> None:
        """Time counts while every device of this stage is there."""
        all_there = True
        for member in self.members:
            if member.phase is not Phase.DONE or member.stage != self.stage:
                continue
            if seen.get(member.device_id, AWAY).present:
                member.away_ms = 0
                continue
            all_there = False
            member.away_ms += elapsed_ms
            if member.away_ms >= self.plan.offline_s * 1_000:
                minutes = member.away_ms // 60_000
                self._fail(member, "ROLLOUT_SILENT", f"not heard for {minutes} min after it")
        if not all_there:
            return
        self.observed_ms += elapsed_ms
        if self.observed_ms >= self.plan.observe_s * 1_000:
            self.stage += 1
            self.observed_ms = self.lull_ms = 0
            self._head_changed = True
            self._news.append(News("ROLLOUT_STAGE"))

    def _stop_if_failed(self) -> None:
        failures = count_of(self.members, Phase.FAILED)
        if self.state not in ENDED and failures >= self.plan.failures_max:
            devices = "device" if failures == 1 else "devices"
            self._stop(f"{failures} {devices} failed, failures_max is {self.plan.failures_max}")

    def _stop(self, why: str) -> None:
        for member in self.members:
            if member.phase in REVOCABLE:
                self._skip(member, Skip.STOPPED)
        self.why = why
        self._turn(State.STOPPED, "ROLLOUT_STOPPED")

    def _turn(self, state: State, kind: str) -> None:
        self.state, self._head_changed = state, True
        self._news.append(News(kind, reason=self.why))

    def _expect(self, *states: State) -> None:
        if self.state not in states:
            raise RefusedError(
                "ROLLOUT_STATE", f"roll-out {self.number} is {self.state.value}", "rollout"
            )
