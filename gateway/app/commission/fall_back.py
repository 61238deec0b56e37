"""The proof that an output falls off without the gateway: a short time, no command, and a look.

The manual does not say what the remote timeout does: nobody relies on it unseen.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.app.commission.findings import Check, Finding, failed, not_done, ok
from gateway.app.commission.proof import (
    BRING_BACK_S,
    BY_HAND,
    LOOK_EVERY_S,
    NS,
    Switcher,
    to_the_end,
)
from gateway.app.config import MeterConfig
from gateway.app.control.polls import FailSafe, fail_safe_of
from gateway.app.control.renewals import held_every_s
from gateway.core.clock import Clock
from gateway.core.errors import MeterError, RefusedError
from gateway.core.reading import Lane
from gateway.south.meter import MeterClient

# What the meter is set to for the test: the shortest time that a configuration may name.
TEST_S: Final = 10
# Control, which holds the output of a point that it leaves alone, may have begun it anew once.
BOUND_S: Final = 2 * TEST_S + 5
EARLIEST_S: Final = TEST_S / 2
# An output that is held more often than this never falls within the test.
HELD_TOO_OFTEN_S: Final = TEST_S + 1


@dataclass(slots=True)
class _Watched:
    """What was seen: whether the output was on, after how many seconds it was off, what failed."""

    was_on: bool = False
    off_after_s: float | None = None
    problem: str = ""


async def prove_fall_back(
    meter: MeterConfig, client: MeterClient, switcher: Switcher, clock: Clock
) -> list[Finding]:
    """Let an output fall off by itself and say what was seen; nothing for `hold_last`.

    Time and supply are set back on every way out, cancellation too. Raises nothing of the meter's.
    """
    rule = fail_safe_of(meter)
    address = client.model.outputs.channel(meter.settings.output).remote_timeout_address
    if rule is None or address is None:
        return []
    if not switcher.is_direct:
        return [
            not_done(
                Check.FALL_BACK,
                "control switches this point and keeps its output on",
                "stop the gateway and run again: the point stays enforced",
            )
        ]
    if switcher.is_beside_control and held_every_s(rule) <= HELD_TOO_OFTEN_S:
        return [
            not_done(
                Check.FALL_BACK,
                f"control holds this output every {held_every_s(rule):.0f} s, so it cannot fall",
                "stop the gateway and run again",
            )
        ]
    try:
        before = await client.poll(Lane.FULL)
    except MeterError as error:
        return [not_done(Check.FALL_BACK, f"{error.code}: {error}", "run again")]
    watched, back = _Watched(), _Back(client, rule, address)
    try:
        await _watch(client, rule, address, watched, clock)
    finally:
        # Also after Ctrl-C: neither the short time nor another supply than before stays behind.
        await to_the_end(back.bring(clock, closed=before.output_closed is True))
    return [_seen(rule, watched), *back.findings(closed=before.output_closed is True)]


async def _watch(
    client: MeterClient, rule: FailSafe, address: int, watched: _Watched, clock: Clock
) -> None:
    """Set the short time, command the output on, and look until it is off or time is over."""
    try:
        if await client.write_setting(address, 1, TEST_S) != TEST_S:
            watched.problem = f"a remote timeout of {TEST_S} s does not read back"
            return
        await client.switch(closed=rule.holds_closed)
    except (MeterError, RefusedError) as error:
        watched.problem = str(error)
        return
    start_ns = clock.mono_ns()
    while (since_s := (clock.mono_ns() - start_ns) / NS) < BOUND_S:
        try:
            reading = await client.poll(Lane.FULL)
        except MeterError:
            pass  # looked at again until the time is over
        else:
            is_on = reading.output_closed is rule.holds_closed
            if watched.was_on and not is_on:
                watched.off_after_s = since_s
                return
            watched.was_on = watched.was_on or is_on
        await clock.sleep(LOOK_EVERY_S)


class _Back:
    """Puts the configured time and the supply back, and tells what of it was not seen."""

    def __init__(self, client: MeterClient, rule: FailSafe, address: int) -> None:
        self._client = client
        self._rule = rule
        self._address = address
        self._has_time = False
        self._has_supply = False

    async def bring(self, clock: Clock, *, closed: bool) -> None:
        """The time first: with the short one the output would fall again."""
        start_ns, is_first = clock.mono_ns(), True
        while is_first or clock.mono_ns() - start_ns < BRING_BACK_S * NS:
            is_first = False
            # Each by itself: a time that is refused must leave nobody in the dark.
            with suppress(MeterError):
                await self._set_time()
            try:
                await self._client.switch(closed=closed)
                shown = (await self._client.poll(Lane.FULL)).output_closed
                self._has_supply = shown is closed
            except MeterError:
                self._has_supply = False
            if self._has_time and self._has_supply:
                return
            await clock.sleep(LOOK_EVERY_S)

    async def _set_time(self) -> None:
        if not self._has_time:
            seen = await self._client.write_setting(self._address, 1, self._rule.after_s)
            self._has_time = seen == self._rule.after_s

    def findings(self, *, closed: bool) -> list[Finding]:
        """What is not as it was before."""
        wrong: list[Finding] = []
        if not self._has_time:
            wrong.append(
                failed(
                    Check.REMOTE_TIMEOUT,
                    f"the remote timeout may still be {TEST_S} s, as for the test",
                    f"set it to {self._rule.after_s} at the meter, or run again with --fix",
                )
            )
        if not self._has_supply:
            state = "open and could not be closed" if closed else "closed, and was open before"
            wrong.append(failed(Check.SWITCH_CLOSE, f"the supply is {state}", BY_HAND))
        return wrong


def _seen(rule: FailSafe, watched: _Watched) -> Finding:
    after_s = watched.off_after_s
    if watched.problem:
        return failed(Check.FALL_BACK, f"not tried: {watched.problem}", "see the checks above")
    if not watched.was_on:
        return failed(
            Check.FALL_BACK, "the output was not seen on after its command", "see SWITCH_OPEN"
        )
    if after_s is None:
        return failed(
            Check.FALL_BACK,
            f"still on {BOUND_S} s after its last command, with a remote timeout of {TEST_S} s: "
            "this meter does not fall back",
            "set fail_safe: hold_last, then --fix; else look for another master that commands it",
        )
    if after_s < EARLIEST_S:
        return failed(
            Check.FALL_BACK,
            f"off {after_s:.1f} s after its command, with a remote timeout of {TEST_S} s",
            "look for another master that commands it, and run again",
        )
    return ok(
        Check.FALL_BACK,
        f"fell off {after_s:.1f} s after its last command, with a remote timeout of {TEST_S} s; "
        f"set back to {rule.after_s} s",
    )
