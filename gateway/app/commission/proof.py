"""The switch proof with load: open, see it from the meter, close again, whatever happens.

closed ── open() ──> watched ── witnesses, silence or time ──> brought back ──> findings
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from gateway.app.commission.findings import Check, Finding, failed, not_done, ok, warning
from gateway.app.config import MeterConfig
from gateway.core.clock import Clock
from gateway.core.errors import MeterError, MeterExceptionError, RefusedError
from gateway.core.proof import DEAD_V, LOAD_PROOF_W, Observation, OpeningProof, Witness
from gateway.core.reading import Lane, Reading
from gateway.south.meter import MeterClient

T = TypeVar("T")

NS: Final = 1_000_000_000
LOOK_EVERY_S: Final = 0.3
WATCH_MIN_S: Final = 8.0
# Three steps of a counter at 500 W take 22 s; a smaller load is watched no longer than this.
WATCH_MAX_S: Final = 30.0
WATCH_MARGIN_S: Final = 4.0
# A meter that answered all along and then is silent for so long has lost its own supply.
SILENT_S: Final = 4.0
BRING_BACK_S: Final = 20.0
# A request to control whose answer was lost may still be carried out.
CONTROL_AWAY: Final = "CONTROL_AWAY"
SUPPLY_BLOCKED: Final = "SUPPLY_BLOCKED"
LEFT_OPEN: Final = "LEFT_OPEN"
BY_HAND: Final = (
    "bring it back by hand now: bridge the contactor's relay; then see the checks above"
)
# Loads with electronics need a moment before they draw again.
RETURN_S: Final = 3.0


class Switcher(Protocol):
    """How the supply is moved: at the meter itself, or through control, which then owns it."""

    @property
    def path(self) -> str:
        """How, in words for the report."""
        ...

    @property
    def is_direct(self) -> bool:
        """Whether the meter itself is commanded, and control leaves the point alone."""
        ...

    @property
    def is_beside_control(self) -> bool:
        """Whether control runs: it holds an output that falls off also where it leaves it alone."""
        ...

    async def open(self) -> None:
        """Ask for the supply to open. Raises MeterError or RefusedError."""
        ...

    async def close(self) -> None:
        """Ask for the supply to close. Raises MeterError or RefusedError (SUPPLY_BLOCKED: our own
        reason is gone, and another one keeps it open).
        """
        ...


class DirectSwitcher:
    """Commands at the meter: for a point that control leaves alone."""

    def __init__(self, client: MeterClient) -> None:
        self._client = client

    @property
    def path(self) -> str:
        """How, in words for the report."""
        return "directly at the meter"

    @property
    def is_direct(self) -> bool:
        """Always."""
        return True

    @property
    def is_beside_control(self) -> bool:
        """Never."""
        return False

    async def open(self) -> None:
        """Command the output. Raises MeterError."""
        await self._client.switch(closed=False)

    async def close(self) -> None:
        """Command the output. Raises MeterError."""
        await self._client.switch(closed=True)


@dataclass(slots=True)
class Watched:
    """What was seen between opening and closing.

    `maybe_open` is False once somebody surely refused to open; `blocked` is why control keeps the
    supply open although the proof is over.
    """

    before: Reading
    proof: OpeningProof
    last: Reading | None = None
    refusal: str = ""
    maybe_open: bool = True
    blocked: str = ""
    went_silent: bool = False
    restarted: bool = False


async def prove_switching(
    meter: MeterConfig, client: MeterClient, switcher: Switcher, clock: Clock
) -> list[Finding]:
    """Open and close a supply with load and say what proved it.

    Brings the supply back on every way out, cancellation too. Raises a MeterError only before
    anything was switched.
    """
    before = await client.poll(Lane.FULL)
    if before.output_closed is not True:
        return [not_done(Check.SWITCH_OPEN, "the supply is open already", "close it first")]
    settings = meter.settings
    proof = OpeningProof(
        load_before_w=None if before.power_w is None else abs(before.power_w),
        current_before_a=before.current_a or 0.0,
        starting_current_a=settings.starting_current_a,
        has_feedback=settings.feedback is not None,
        upstream=settings.contactor == "upstream",
    )
    watched = Watched(before, proof)
    back: Reading | None = None
    try:
        try:
            await switcher.open()
        except (MeterError, RefusedError) as error:
            watched.refusal, watched.maybe_open = str(error), not _is_refusal(error)
        else:
            await _watch(client, watched, clock)
    finally:
        # Also after Ctrl-C: a customer's supply is never left open.
        back = await to_the_end(_bring_back(client, switcher, watched, clock))
    return [*_opening(meter, watched, switcher), *_closing(watched, back)]


async def _watch(client: MeterClient, watched: Watched, clock: Clock) -> None:
    """Read until the proof is complete, the meter is silent, or there is nothing more to expect."""
    load_w = watched.proof.load_before_w or 0.0
    steps_s = 3 * 3600 / load_w if load_w >= LOAD_PROOF_W else 0.0
    watch_s = min(max(steps_s + WATCH_MARGIN_S, WATCH_MIN_S), WATCH_MAX_S)
    start_ns = heard_ns = clock.mono_ns()
    while clock.mono_ns() - start_ns < watch_s * NS:
        await clock.sleep(LOOK_EVERY_S)
        try:
            reading = await client.poll(Lane.FULL)
        except MeterError:
            if clock.mono_ns() - heard_ns > SILENT_S * NS:
                watched.went_silent = True
                return
            continue
        heard_ns = clock.mono_ns()
        watched.last = reading
        watched.proof.collect(_observation(reading))
        if watched.proof.complete:
            return


def _is_refusal(error: MeterError | RefusedError) -> bool:
    """Whether nothing was opened: after silence the command may have been carried out."""
    if isinstance(error, RefusedError):
        return error.refusal_code != CONTROL_AWAY
    return isinstance(error, MeterExceptionError)


async def _bring_back(
    client: MeterClient, switcher: Switcher, watched: Watched, clock: Clock
) -> Reading | None:
    """Close the supply and read it closed; None where that was not seen."""
    start_ns, taken = clock.mono_ns(), not watched.maybe_open
    is_first = True
    while is_first or clock.mono_ns() - start_ns < BRING_BACK_S * NS:
        # Asked for whatever the meter says or does not say, until it was taken once.
        is_closed = await _is_closed(client, watched)
        if not (taken and is_closed):
            try:
                await switcher.close()
                taken = True
            except RefusedError as error:
                if error.refusal_code == SUPPLY_BLOCKED:
                    watched.blocked = error.message
                    return None
            except MeterError:
                pass  # tried again until the time is over; the finding says that it is open
        elif (back := await _with_load(client, watched, clock)) is not None:
            return back
        if is_first:  # through control the first request waits for the minimum off time
            is_first, start_ns = False, clock.mono_ns()
        await clock.sleep(LOOK_EVERY_S)
    return None


async def to_the_end(work: Coroutine[None, None, T]) -> T:
    """Await it to its end, also when the caller is cancelled meanwhile (which is raised then)."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


async def _is_closed(client: MeterClient, watched: Watched) -> bool:
    try:
        reading = await client.poll(Lane.FULL)
    except MeterError:
        return False
    watched.restarted |= reading.restarted and not watched.before.restarted
    return reading.output_closed is True


async def _with_load(client: MeterClient, watched: Watched, clock: Clock) -> Reading | None:
    """The first closed reading with current again, or the last one where none came back.

    None where it does not read closed any more, or cannot be read.
    """
    start_ns = clock.mono_ns()
    limit_a = watched.proof.current_before_a / 10
    try:
        while (reading := await client.poll(Lane.FULL)).output_closed:
            has_load = limit_a <= 0 or (reading.current_a or 0.0) > limit_a
            if has_load or clock.mono_ns() - start_ns > RETURN_S * NS:
                return reading
            await clock.sleep(LOOK_EVERY_S)
    except MeterError:
        pass
    return None


def _opening(meter: MeterConfig, watched: Watched, switcher: Switcher) -> Iterator[Finding]:
    proof, last = watched.proof, watched.last
    if watched.refusal:
        yield failed(Check.SWITCH_OPEN, f"not opened: {watched.refusal}", "see the checks above")
        return
    if watched.restarted or watched.went_silent:
        yield failed(
            Check.AUXILIARY,
            "the meter lost its own supply when the contactor opened",
            "feed the meter's auxiliary supply from before the contactor: a cut would take away "
            "the means to reconnect",
        )
        return
    load = f"{proof.load_before_w or 0:.0f} W before"
    seen = ", ".join(witness.value for witness in proof.in_order()) or "nothing"
    told = f"opened {switcher.path}, {load}; seen by: {seen}"
    if not proof.shows_open:
        yield failed(Check.SWITCH_OPEN, f"{told}; {proof.doubt()}", "check relay and contactor")
        return
    if proof.load_unproven:
        # A contactor that never moved looks the same: it would not take the meter's supply either.
        yield not_done(
            Check.SWITCH_OPEN,
            f"{told}; without load nothing proves the contacts",
            "switch a load on and repeat",
        )
    else:
        yield ok(Check.AUXILIARY, "the meter went on answering while the contactor was open")
        yield (
            ok(Check.SWITCH_OPEN, told)
            if proof.complete
            else warning(
                Check.SWITCH_OPEN,
                f"{told}; too little load to see the counter stand still",
                "repeat with 1 kW or more",
            )
        )
    if last is not None and last.voltage_v is not None:
        yield from _side(meter, watched, dead=last.voltage_v < DEAD_V)


def _side(meter: MeterConfig, watched: Watched, *, dead: bool) -> Iterator[Finding]:
    """Whether the contactor sits where the configuration says."""
    side = meter.settings.contactor
    if side == "downstream" and dead and (watched.before.voltage_v or 0.0) >= DEAD_V:
        yield failed(
            Check.CONTACTOR,
            "the meter's voltage went with the contactor: it sits before the meter",
            "set contactor: upstream",
        )
    elif side == "upstream" and not dead and Witness.VOLTAGE not in watched.proof.witnesses:
        yield warning(
            Check.CONTACTOR,
            "the voltage stayed: the contactor may sit behind the meter",
            "look where it sits; else set contactor: downstream",
        )
    else:
        yield ok(Check.CONTACTOR, f"the contactor is {side} of the meter")


def _closing(watched: Watched, back: Reading | None) -> Iterator[Finding]:
    if watched.blocked:
        yield not_done(
            Check.SWITCH_CLOSE,
            f"closing was not seen: {watched.blocked}",
            "control closes it when that is over; repeat the proof then",
        )
        return
    if back is None and watched.refusal:
        yield failed(
            Check.SWITCH_CLOSE,
            f"whether the supply was opened is not known: {watched.refusal}",
            "look there; once the gateway answers: prepaid-gateway meter switch ID on",
        )
        return
    if back is None:
        yield failed(
            Check.SWITCH_CLOSE,
            "the supply is open and could not be closed",
            BY_HAND,
        )
        return
    if back.feedback_closed is False:
        yield failed(
            Check.SWITCH_CLOSE,
            "the output closed, the feedback did not",
            "check relay, contactor and the feedback's wire",
        )
        return
    limit_a = watched.proof.current_before_a / 10
    if limit_a > 0 and (back.current_a or 0.0) <= limit_a and not watched.refusal:
        yield warning(
            Check.SWITCH_CLOSE,
            f"closed; no current yet after {RETURN_S:.0f} s",
            "see whether the customer has voltage",
        )
        return
    current = f"{back.current_a:.2f} A" if back.current_a is not None else "current unknown"
    yield ok(Check.SWITCH_CLOSE, f"closed again; {current}")


def _observation(reading: Reading) -> Observation:
    return Observation(
        mono_ns=reading.mono_ns,
        output_closed=reading.output_closed,
        energy_wh=sum(reading.energy_wh),
        current_a=reading.current_a,
        power_w=reading.power_w,
        feedback_closed=reading.feedback_closed,
        voltage_v=reading.voltage_v,
    )


async def fix_output(
    client: MeterClient,
    switcher: Switcher,
    *,
    mode: int | None,
    timeout_s: int | None,
    done: list[str],
) -> None:
    """Write the output's type of use and remote timeout where they differ; tell it to `done`.

    Writes only what is given. A supply that the change opened is closed again on every way out,
    and an output that is on begins its time anew.
    Raises a MeterError, RefusedError SETTING where a value does not read back and LEFT_OPEN where
    the supply could not be closed.
    """
    channel = client.model.outputs.channel(client.endpoint.output)
    before = await client.check_output()
    wanted = [
        (what, address, value, now)
        for what, address, value, now in (
            ("remote timeout", channel.remote_timeout_address, timeout_s, before.remote_timeout_s),
            ("type of use", channel.mode_address, mode, before.mode),
        )
        if value is not None and address is not None and now != value
    ]
    if not wanted:
        return
    try:
        for what, address, value, now in wanted:
            seen = await client.write_setting(address, 1, value)
            if seen != value:
                raise RefusedError(
                    "SETTING", f"{what} of output {channel.label} still reads {seen}"
                )
            done.append(f"{what} of output {channel.label}: {now} -> {value}")
        on_is_closed = client.endpoint.output_on == "connects"
        if before.is_closed is on_is_closed and before.mode == client.model.outputs.switching_mode:
            # A time that runs since an earlier command may be the old one.
            await client.switch(closed=on_is_closed)
    finally:
        if before.is_closed:
            await to_the_end(_undo_opening(client, switcher, done))


async def _undo_opening(client: MeterClient, switcher: Switcher, done: list[str]) -> None:
    loop = asyncio.get_running_loop()
    until_s, was_open = loop.time() + BRING_BACK_S, False
    await asyncio.sleep(LOOK_EVERY_S)
    while loop.time() < until_s:
        with suppress(MeterError):
            if (await client.check_output()).is_closed:
                if was_open:
                    done.append("the supply, opened by the change, was closed again")
                return
            was_open = True
        try:
            await switcher.close()
        except RefusedError as error:
            if error.refusal_code == SUPPLY_BLOCKED:
                done.append(f"the supply, opened by the change, stays open: {error.message}")
                return
        except MeterError:
            pass
        await asyncio.sleep(LOOK_EVERY_S)
    raise RefusedError(LEFT_OPEN, "the supply was closed before, and does not read closed now")
