"""One meter: connect, make sure it is the right one, poll, switch, report."""

import asyncio
import ipaddress
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, Literal

from gateway.core.clock import Clock
from gateway.core.errors import (
    MeterCounterError,
    MeterError,
    MeterExceptionError,
    MeterProtocolError,
    MeterUnreachableError,
)
from gateway.core.proof import Observation
from gateway.core.reading import Lane, Reading
from gateway.south.identity import Identity, read_identity, require
from gateway.south.link import Job, ModbusLink, Outcome, Reply, open_link
from gateway.south.modbus import Request, read_request, setting_request, write_request
from gateway.south.models import meter_model
from gateway.south.pacing import RoundTrips
from gateway.south.plan import LanePlan, lane_plans
from gateway.south.registers import MeterModel

ACKNOWLEDGE_MASK_MAX: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEndpoint:
    """Where a meter is and how it is wired.

    `output` is the digital output that switches the supply; `output_on` says what the energised
    output does to it. `feedback` is the digital input that is on while the contactor is closed.
    `timeout_s` bounds connecting and caps the deadline of each reply. `pipeline` is how many
    requests may be in flight (1 … 3). With a `serial_number` no other device is accepted.
    """

    meter_id: str
    model: str
    host: str
    port: int = 502
    unit: int = 1
    output: str = "0.0"
    output_on: Literal["connects", "disconnects"] = "connects"
    feedback: str | None = None
    timeout_s: float = 1.0
    pipeline: int = 1
    serial_number: str | None = None


@dataclass(frozen=True, slots=True)
class OutputReport:
    """Whether the supply output will obey, as the meter's own registers tell.

    `mode` is the output's type of use (PAC3220: 2 = switching output) and `remote_timeout_s` after
    how many seconds without a command it falls back (0: never); None where the model has no such
    register. `is_in_own_subnet` says whether we reach the meter from its own subnet: its IP filter,
    when on, refuses writes from elsewhere while reads go on. `problems` and `notes` are sentences
    for a person: no problems means that nothing seen speaks against switching; a note names what no
    register tells.
    """

    mode: int | None
    is_closed: bool
    remote_timeout_s: int | None
    is_write_protected: bool
    is_password_protected: bool
    is_in_own_subnet: bool | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class MeterClient:
    """One meter and its one connection.

    `first_sequence` is the sequence of the first reading; a caller that goes on after a restart
    passes the last one plus 1. Raises ValueError when the model, output or feedback does not exist.
    """

    def __init__(self, endpoint: MeterEndpoint, clock: Clock, *, first_sequence: int = 1) -> None:
        self.endpoint: Final = endpoint
        self.model: Final = meter_model(endpoint.model)
        self.round_trips: Final = RoundTrips(endpoint.timeout_s)
        self.readings_rejected = 0
        self._clock = clock
        self._sequence = first_sequence
        self._channel = self.model.outputs.channel(endpoint.output)
        self._feedback = (
            None if endpoint.feedback is None else self.model.input(endpoint.feedback).status
        )
        self._restart_mask = self.model.diagnostic("restart").mask
        self._lanes = _lanes(self.model, endpoint.output, endpoint.feedback)
        self._serial_number = endpoint.serial_number
        self._identity: Identity | None = None
        self._link: ModbusLink | None = None
        self._renewal: Job | None = None
        self._switching = 0
        self._connecting = asyncio.Lock()

    @property
    def is_connected(self) -> bool:
        """Whether a verified connection is open."""
        return self._link is not None and self._link.fault is None

    @property
    def identity(self) -> Identity | None:
        """What the device said on the latest verified connection; None before the first."""
        return self._identity

    @property
    def next_sequence(self) -> int:
        """The sequence that the next reading will carry."""
        return self._sequence

    def expect_another_device(self) -> None:
        """The device was exchanged: accept the next one's serial number, on a new connection."""
        self._serial_number = self.endpoint.serial_number
        self._identity = None
        self.abort()

    async def connect(self) -> Identity:
        """Open the connection unless it is open, and verify who answers.

        A device keeps the serial number that it had on the first connection of this object.
        Raises MeterUnreachableError, MeterIdentityError or any other MeterError; then nothing
        is left open.
        """
        async with self._connecting:
            if self._identity is not None and self.is_connected:
                return self._identity
            if self._link is not None:
                # A PAC3220 has three places for connections (EM p99): never take a second one.
                await self._link.wait_closed()
                self._link = None
            link = await self._open()
            is_verified = False
            try:
                identity = await read_identity(link, self.model.identity)
                require(identity, self.model, self._serial_number)
                is_verified = True
            finally:
                if not is_verified:
                    link.close()
                    self._link = link
            self._serial_number = identity.serial_number or self._serial_number
            self._identity = identity
            self._link = link
            return identity

    def abort(self) -> None:
        """Close the connection at once; what waits for a reply fails."""
        if self._link is not None:
            self._link.close()

    async def close(self) -> None:
        """Close the connection and return when the socket is closed."""
        self.abort()
        if self._link is not None:
            await self._link.wait_closed()

    async def poll(self, lane: Lane) -> Reading:
        """Read one lane, connecting first when needed.

        Raises a MeterError: MeterCounterError leaves the link open.
        """
        plan, requests = self._lanes[lane]
        link = await self._open_link()
        replies = await link.exchange(requests)
        return self._reading(plan, replies)

    def begin_poll(self, lane: Lane, done: Callable[[Reading | MeterError], None]) -> None:
        """As `poll`, on the open connection and without a task.

        `done` is called once, from the event loop, with the reading or the MeterError; it must not
        raise. Raises MeterUnreachableError when the connection is gone by now, MeterError when too
        much is queued.
        """
        plan, requests = self._lanes[lane]
        if self._link is None:
            raise MeterUnreachableError("not connected")
        self._link.begin(requests, partial(self._end_poll, plan, done))

    def _end_poll(
        self, plan: LanePlan, done: Callable[[Reading | MeterError], None], outcome: Outcome
    ) -> None:
        result: Reading | MeterError
        if isinstance(outcome, MeterError):
            result = outcome
        else:
            try:
                result = self._reading(plan, outcome)
            except MeterProtocolError as error:
                result = error
        done(result)

    async def read_values(self) -> dict[str, float]:
        """All measurements by name, the slow lane's too. Raises a MeterError."""
        plan, requests = self._lanes[Lane.SLOW]
        link = await self._open_link()
        replies = await link.exchange(requests)
        values = plan.decode([reply.payload for reply in replies])
        return dict(zip(plan.names, values, strict=True))

    async def switch(self, *, closed: bool) -> None:
        """Command the supply closed or open, ahead of every poll that is not yet on the wire.

        Returning means that the meter took the command, not that anything moved: only a later
        reading tells. After MeterTimeoutError the command may have been carried out.
        Raises MeterExceptionError when the meter refuses (0xF0: write protection), or any other
        MeterError. Source: PAC3220 EM p138-139.
        """
        request = self._switch_request(closed=closed)
        self._withdraw_renewal()
        self._switching += 1
        try:
            link = await self._open_link()
            await link.exchange((request,), urgent=True)
        finally:
            self._switching -= 1

    def begin_renewal(self, *, closed: bool, done: Callable[[MeterError | None], None]) -> bool:
        """Repeat the command that holds the supply as it reads, behind all that is queued.

        False when a switch is under way: nothing is sent then. `done` is called once, from the
        event loop, with None when the meter took it or the MeterError; never when a switch comes,
        which takes the place of what is not on the wire yet. It must not raise.
        Raises MeterUnreachableError when the connection is gone, MeterError when too much is
        queued. Source: PAC3220 EM p131-132 (remote timeout), p138-139.
        """
        if self._switching:
            return False
        if self._link is None:
            raise MeterUnreachableError("not connected")
        self._withdraw_renewal()
        request = self._switch_request(closed=closed)

        def ended(outcome: Outcome) -> None:
            self._renewal = None
            done(outcome if isinstance(outcome, MeterError) else None)

        self._renewal = self._link.begin((request,), ended)
        return True

    def _withdraw_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.withdraw()
            self._renewal = None

    def _switch_request(self, *, closed: bool) -> Request:
        on = closed == (self.endpoint.output_on == "connects")
        coding = self.model.outputs.switch
        return write_request(coding.address, coding.word(self._channel.code, on=on))

    async def acknowledge_diagnostics(self, mask: int) -> None:
        """Clear latched diagnostics bits.

        Raises ValueError when the mask (0 … 0xFFFF) reaches beyond the latched ones, or a
        MeterError. Source: PAC3220 EM p138.
        """
        if not 0 <= mask <= ACKNOWLEDGE_MASK_MAX:
            raise ValueError(f"mask 0x{mask:X} does not fit the command register")
        link = await self._open_link()
        await link.exchange((write_request(self.model.outputs.acknowledge_address, mask),))

    async def identify(self) -> Identity:
        """Ask the device again who it is. Raises a MeterError."""
        link = await self._open_link()
        return await read_identity(link, self.model.identity)

    async def read_setting(self, address: int, count: int = 1) -> int | None:
        """A setting of 1 or 2 registers as a number; None where the device has none there.

        Raises a MeterError.
        """
        return await self._setting(await self._open_link(), address, count)

    async def write_setting(self, address: int, count: int, value: int) -> int | None:
        """Write a setting of 1 or 2 registers and return what reads back. Raises a MeterError.

        Source: PAC3220 EM p111 (function 16), p123 and p131-132 (settings).
        """
        link = await self._open_link()
        raw = value.to_bytes(2 * count, "big")
        words = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
        await link.exchange((setting_request(address, words),))
        return await self._setting(link, address, count)

    async def check_output(self) -> OutputReport:
        """Read whether the output will obey, without switching it. Raises a MeterError.

        Source: PAC3220 EM p90 (IP filter), p112 and p121 (protection), p131-132 (outputs).
        """
        link = await self._open_link()
        outputs = self.model.outputs
        mode = await self._setting(link, self._channel.mode_address)
        remote_timeout_s = await self._setting(link, self._channel.remote_timeout_address)
        status = await self._word(link, self._channel.status.measurement)
        word = await self._word(link, self.model.diagnostics_word)
        standing = self.model.diagnostic_names(word)
        is_near = await self._is_in_own_subnet(link)
        problems: list[str] = []
        if mode is None:
            problems.append(f"the mode of output {self._channel.label} cannot be read")
        elif mode != outputs.switching_mode:
            problems.append(
                f"output {self._channel.label} is in mode {mode}; "
                f"set it to {outputs.switching_mode} (switching output) on the meter"
            )
        if "write_protected" in standing:
            problems.append("hardware write protection is on; release it at the meter")
        if "password_protected" in standing:
            problems.append("writes are password-protected; release it at the meter")
        notes: list[str] = []
        if is_near is False:
            # No register tells whether the filter is on: a site with a router between is in order.
            notes.append(
                f"{link.local_address} is outside the meter's subnet; its IP filter, "
                "when on, refuses writes from there"
            )
        return OutputReport(
            mode=mode,
            is_closed=self._supply_closed(status),
            remote_timeout_s=remote_timeout_s,
            is_write_protected="write_protected" in standing,
            is_password_protected="password_protected" in standing,
            is_in_own_subnet=is_near,
            problems=tuple(problems),
            notes=tuple(notes),
        )

    async def _open_link(self) -> ModbusLink:
        if not self.is_connected:
            await self.connect()
        if self._link is None:
            raise AssertionError("connected without a link")
        return self._link

    async def _open(self) -> ModbusLink:
        endpoint = self.endpoint
        return await open_link(
            endpoint.host,
            endpoint.port,
            unit=endpoint.unit,
            pipeline=endpoint.pipeline,
            round_trips=self.round_trips,
            clock=self._clock,
            timeout_s=endpoint.timeout_s,
        )

    def _supply_closed(self, outputs_word: int) -> bool:
        is_on = bool(outputs_word & self._channel.status.mask)
        return is_on == (self.endpoint.output_on == "connects")

    def _reading(self, plan: LanePlan, replies: Sequence[Reply]) -> Reading:
        values = plan.decode([reply.payload for reply in replies])
        energy = replies[plan.energy_read]
        output_closed = self._supply_closed(int(values[plan.statuses_at[0]]))
        feedback_closed = None
        if self._feedback is not None:
            feedback_closed = bool(int(values[plan.statuses_at[1]]) & self._feedback.mask)
        current_a = _highest(values, plan.currents_at)
        power_w = None if plan.power_at is None else _highest(values, (plan.power_at,))
        voltage_v = _highest(values, plan.voltages_at)
        try:
            energy_wh = plan.energy_wh(values)
        except MeterProtocolError as error:
            self.readings_rejected += 1
            # Beside a counter that is not undefined but impossible no other number is believed.
            is_sound = plan.is_undefined(values)
            seen = Observation(
                mono_ns=replies[0].asked_ns,
                output_closed=output_closed,
                energy_wh=None,
                current_a=current_a if is_sound else None,
                power_w=power_w if is_sound else None,
                feedback_closed=feedback_closed,
                voltage_v=voltage_v if is_sound else None,
                trusted=False,
            )
            measures = plan.lane is not Lane.SHORT
            raise MeterCounterError(str(error), seen, measures=measures) from error
        diagnostics = 0 if plan.diagnostics_at is None else int(values[plan.diagnostics_at])
        sequence = self._sequence
        self._sequence += 1
        return Reading(
            sequence=sequence,
            mono_ns=energy.mono_ns,
            asked_ns=energy.asked_ns,
            begun_ns=replies[0].asked_ns,
            part_wh=plan.part_wh(values),
            utc_ms=self._clock.utc_ms(),
            lane=plan.lane,
            energy_wh=energy_wh,
            output_closed=output_closed,
            feedback_closed=feedback_closed,
            current_a=current_a,
            power_w=power_w,
            voltage_v=voltage_v,
            restarted=bool(diagnostics & self._restart_mask),
            diagnostics=diagnostics,
            meter_clock_s=None if plan.clock_at is None else int(values[plan.clock_at]),
            values=values[: plan.value_count],
        )

    async def _word(self, link: ModbusLink, name: str) -> int:
        item = self.model.measurement(name)
        replies = await link.exchange((read_request(item.address, item.format.registers),))
        return int.from_bytes(replies[0].payload, "big")

    async def _setting(self, link: ModbusLink, address: int | None, count: int = 1) -> int | None:
        """A setting register; None where the device has none (exception reply)."""
        if address is None:
            return None
        try:
            replies = await link.exchange((read_request(address, count),))
        except MeterExceptionError:
            return None
        return int.from_bytes(replies[0].payload, "big")

    async def _is_in_own_subnet(self, link: ModbusLink) -> bool | None:
        network = self.model.network
        if network is None:
            return None
        address = await self._setting(link, network.ip_address, 2)
        mask = await self._setting(link, network.mask_address, 2)
        local = ipaddress.ip_address(link.local_address)
        if address is None or not mask or not isinstance(local, ipaddress.IPv4Address):
            return None
        return int(local) & mask == address & mask


def _highest(values: Sequence[float], places: Sequence[int]) -> float | None:
    """The highest defined value: a meter wired for one phase leaves the others undefined."""
    highest: float | None = None
    for at in places:
        value = values[at]
        if math.isfinite(value) and (highest is None or value > highest):
            highest = value
    return highest


@lru_cache(maxsize=256)
def _lanes(
    model: MeterModel, output: str, feedback: str | None
) -> dict[Lane, tuple[LanePlan, tuple[Request, ...]]]:
    return {
        lane: (plan, tuple(read_request(read.address, read.count) for read in plan.reads))
        for lane, plan in lane_plans(model, output, feedback).items()
    }
