"""A whole simulated site: meters on addresses of their own, one generator, and the truth."""

import asyncio
import resource
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError, MeterExceptionError, RefusedError
from gateway.sim.device import Device
from gateway.sim.electrics import Phases
from gateway.sim.faults import Fault, FaultKind, fault_named
from gateway.sim.feeder import FeederCurve
from gateway.sim.journal import Opening
from gateway.sim.loads import (
    DAY_S,
    HOUSEHOLD,
    SHOP,
    Curve,
    LoadCurve,
    Mains,
    Profile,
    Random,
    between,
    profile_curve,
    steady_curve,
    swing,
)
from gateway.sim.meter import Meter, MeterOptions, OutputOn
from gateway.sim.server import Port

MAX_METERS = 20_000
METERS_PER_NET = 250
NETS = 256
FILES_PER_METER = 4  # a listener and three connections
FILES_BESIDE = 128
GENERATOR_LOOK_S = 60.0  # how late a step of the wall clock may move generator hours
MS_PER_S = 1000.0
SINGLE_PHASE: Phases = (1.0, 0.0, 0.0)
THIRDS: Phases = (1 / 3, 1 / 3, 1 / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """What to simulate.

    - `meters` (20), on 127.20.x.y (`network`) and one unprivileged `port` (5020).
    - `seed` (1): the same seed makes the same customers.
    - `control_socket` (none): path of the Unix socket that takes commands.
    - `load_w` (none): every customer draws this on average instead of its profile.
    - `swing` (0.5): power changes by up to this share, every 0.2 to 1 s.
    - `shop_every` (10): every n-th customer is a shop on three phases, 0 for none.
    - `meters_per_feeder` (50); `check_meters` (no): one more meter at the head of each feeder.
    - `latency_s` (0.015, 0.025): range of the time a meter takes to answer.
    - `drop_out_rate` (0): share of replies in whose place the connection is reset.
    - `connections` (3) per meter; `hole_registers` (0) that a read may cross.
    - `generator_hours` (none): local hours (from, to) in which the generator feeds the site.
    - `utc_offset_s` (0): local time of the load profiles and generator hours.
    - `output_on` (connects), `upstream` (no), `feedback` (yes): wiring of every contactor.
    - `save_s` (300): how often a meter saves its counters; `restart_s` (3): how long it starts.

    Raises ConfigurationError with every value that is out of range.
    """

    meters: int = 20
    seed: int = 1
    network: str = "127.20"
    port: int = 5020
    control_socket: Path | None = None
    load_w: int | None = None
    swing: float = 0.5
    shop_every: int = 10
    meters_per_feeder: int = 50
    check_meters: bool = False
    latency_s: tuple[float, float] = (0.015, 0.025)
    drop_out_rate: float = 0.0
    connections: int = 3
    hole_registers: int = 0
    generator_hours: tuple[tuple[float, float], ...] = ()
    utc_offset_s: int = 0
    output_on: OutputOn = OutputOn.CONNECTS
    upstream: bool = False
    feedback: bool = True
    save_s: float = 300.0
    restart_s: float = 3.0

    def __post_init__(self) -> None:
        """Check every range at once."""
        low_s, high_s = self.latency_s
        checks = (
            (1 <= self.meters <= MAX_METERS, f"meters: 1 to {MAX_METERS}"),
            (1 <= self.port <= 65_535, "port: 1 to 65535"),
            (self.load_w is None or 0 <= self.load_w <= 1_000_000, "load_w: 0 to 1000000"),
            (0 <= self.swing < 1, "swing: 0 to below 1"),
            (self.shop_every >= 0, "shop_every: 0 or more"),
            (self.meters_per_feeder >= 1, "meters_per_feeder: 1 or more"),
            (0 <= low_s <= high_s <= 10, "latency_s: two times from 0 to 10 s, in order"),
            (0 <= self.drop_out_rate < 1, "drop_out_rate: 0 to below 1"),
            (1 <= self.connections <= 100, "connections: 1 to 100"),
            (0 <= self.hole_registers <= 100, "hole_registers: 0 to 100"),
            (
                all(0 <= start < end <= 24 for start, end in self.generator_hours),
                "generator_hours: pairs of hours from 0 to 24, the earlier first",
            ),
            (self.save_s > 0 and self.restart_s >= 0, "save_s, restart_s: positive"),
            (_is_loopback(self.network), "network: two numbers within 127.0 to 127.255"),
        )
        problems = tuple(f"simulation.{problem}" for fits, problem in checks if not fits)
        if problems:
            raise ConfigurationError(problems)


def _is_loopback(network: str) -> bool:
    """Whether a network prefix keeps the simulated site on this machine."""
    first, _, second = network.partition(".")
    return first == "127" and second.isascii() and second.isdigit() and int(second) < NETS


@dataclass(frozen=True, slots=True)
class Customer:
    """One simulated service point: its meter, where that answers, and how it is listed."""

    id: str
    feeder: str
    profile: Profile
    p_max_w: int
    meter: Meter
    port: Port
    is_check: bool = False


class Site:
    """The simulated meters of one site and the truth about them.

    `seeded` makes a generator from a seed; every customer gets one of its own, so that the first
    twenty are the same in a site of twenty and of eight hundred.
    """

    def __init__(self, options: SiteOptions, clock: Clock, seeded: Callable[[int], Random]) -> None:
        self.options = options
        self.generator_running = False
        self._clock = clock
        self._start_ns = clock.mono_ns()
        self._start_utc_s = clock.utc_ms() / MS_PER_S
        self._generator_forced: bool | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._customers = {
            customer.id: customer
            for customer in (
                self._customer(index, seeded(options.seed * 1_000_003 + index))
                for index in range(options.meters)
            )
        }
        if options.check_meters:
            self._customers |= {check.id: check for check in self._checks(seeded)}

    # --- running ---------------------------------------------------------------------------------

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Serve until `stop`; `ready` is set once every meter listens.

        Raises ConfigurationError where an address cannot be had or files are too few.
        """
        raise_file_limit(len(self._customers) * FILES_PER_METER + FILES_BESIDE)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._spawn(self._run_generator(), "sim-generator")
                for customer in self._customers.values():
                    await customer.port.follow()
                ready.set()
                await stop.wait()
                self._group = None  # what a meter still wants to start would outlive the site
                for task in self._tasks:
                    task.cancel()
        except* ConfigurationError as group_error:
            raise ConfigurationError(_problems(group_error)) from None
        finally:
            self._group = None
            for customer in self._customers.values():
                customer.port.close()

    def now_s(self) -> float:
        """Seconds of the clock since the site was made."""
        return (self._clock.mono_ns() - self._start_ns) / 1e9

    def utc_ms(self, t_s: float) -> float:
        """The wall label of an instant, by the wall clock of now."""
        return self._clock.utc_ms() - (self.now_s() - t_s) * MS_PER_S

    def customers(self) -> tuple[Customer, ...]:
        """All customers in the order of their addresses."""
        return tuple(self._customers.values())

    def customer(self, meter_id: str) -> Customer:
        """One customer. Raises RefusedError METER_UNKNOWN."""
        found = self._customers.get(meter_id)
        if found is None:
            raise RefusedError("METER_UNKNOWN", f"no simulated meter {meter_id!r}", "meter")
        return found

    def meters_csv(self) -> str:
        """The meters as rows for the gateway's `meters_file`, with a heading."""
        extra = ",role" if self.options.check_meters else ""
        rows = [f"id,model,host,port,p_max_w,feeder{extra}"]
        for customer in self._customers.values():
            port = customer.port
            role = (",check" if customer.is_check else ",supply") if extra else ""
            rows.append(
                f"{customer.id},pac3220,{port.host},{port.port},{customer.p_max_w},"
                f"{customer.feeder}{role}"
            )
        return "\n".join(rows) + "\n"

    # --- the truth -------------------------------------------------------------------------------

    def crossing_utc_ms(
        self, meter_id: str, energy_wh: float, tariff: int | None = None
    ) -> float | None:
        """When the true energy of a meter reached `energy_wh`, None if it has not (or long ago).

        `tariff` 0 or 1 asks for T1 or T2 alone, None for their sum. The truth starts at the sum of
        the meter's first registers. Raises RefusedError METER_UNKNOWN.
        """
        meter = self.customer(meter_id).meter
        now_s = self.now_s()
        meter.advance(now_s)
        crossed_s = meter.track.crossing_s(energy_wh, now_s, tariff)
        return None if crossed_s is None else self.utc_ms(crossed_s)

    def openings(self, meter_id: str) -> tuple[Opening, ...]:
        """Every cut of a meter that is remembered. Raises RefusedError METER_UNKNOWN."""
        meter = self.customer(meter_id).meter
        meter.advance(self.now_s())
        return meter.journal.openings()

    # --- what a person may do --------------------------------------------------------------------

    async def add_fault(self, meter_id: str, fault: Fault) -> None:
        """Put a fault in force. Raises RefusedError METER_UNKNOWN."""
        customer = self.customer(meter_id)
        customer.meter.add_fault(self.now_s(), fault)
        await customer.port.follow()

    async def clear_faults(self, meter_id: str, kind: FaultKind | None = None) -> None:
        """End one fault or all of a meter. Raises RefusedError METER_UNKNOWN."""
        customer = self.customer(meter_id)
        customer.meter.clear_faults(self.now_s(), kind)
        await customer.port.follow()

    async def cut_power(self, meter_id: str) -> None:
        """Take the mains away from one point. Raises RefusedError METER_UNKNOWN."""
        customer = self.customer(meter_id)
        customer.meter.cut_power(self.now_s())
        await customer.port.follow()

    async def restore_power(self, meter_id: str) -> None:
        """Give the mains back. Raises RefusedError METER_UNKNOWN."""
        customer = self.customer(meter_id)
        customer.meter.restore_power(self.now_s())
        await customer.port.follow()

    async def restart(self, meter_id: str) -> None:
        """Restart a meter in good order. Raises RefusedError METER_UNKNOWN."""
        customer = self.customer(meter_id)
        customer.meter.restart(self.now_s())
        await customer.port.follow()

    async def exchange_cables(self, meter_id: str, other_id: str) -> None:
        """Two meters answer at each other's address. Raises RefusedError METER_UNKNOWN."""
        first, second = self.customer(meter_id), self.customer(other_id)
        first.port.exchange(second.port)
        self._customers[meter_id] = replace(first, port=second.port)
        self._customers[other_id] = replace(second, port=first.port)
        for port in (first.port, second.port):
            await port.follow()

    def set_setting(self, meter_id: str, address: int, value: int) -> None:
        """Change a parameter by the keys of a meter, as nobody on the bus could.

        Raises RefusedError METER_UNKNOWN, or SETTING for no parameter or a value out of its range.
        """
        meter = self.customer(meter_id).meter
        try:
            meter.set_setting(self.now_s(), address, value)
        except KeyError:
            raise RefusedError("SETTING", f"register {address} is no parameter") from None
        except MeterExceptionError as error:
            raise RefusedError("SETTING", str(error)) from None

    def set_load(self, meter_id: str, power_w: float) -> None:
        """Replace a customer's load by a constant one. Raises RefusedError METER_UNKNOWN."""
        self.customer(meter_id).meter.set_load(self.now_s(), steady_curve(power_w))

    def set_generator(self, *, running: bool | None) -> None:
        """Start or stop the generator by hand; None gives it back to its hours."""
        self._generator_forced = running
        self._follow_generator()

    # --- inside ----------------------------------------------------------------------------------

    def _customer(self, index: int, random: Random) -> Customer:
        """Make one customer from its place and its own randomness."""
        options = self.options
        shop = options.shop_every > 0 and (index + 1) % options.shop_every == 0
        profile = SHOP if shop else HOUSEHOLD
        curve = self._curve(profile, random)
        shares = _shares(random) if profile.phases == 3 else SINGLE_PHASE
        meter = self._meter(index, curve, shares, random)
        if options.drop_out_rate:
            meter.add_fault(0.0, fault_named(FaultKind.DROP_OUT, rate=options.drop_out_rate))
        name = f"shop-{index + 1}" if shop else f"flat-{1 + index // 20}{1 + index % 20:02d}"
        return Customer(
            id=name,
            feeder=f"riser-{1 + index // options.meters_per_feeder}",
            profile=profile,
            p_max_w=max(profile.p_max_w, int(curve.peak_w) + 1),
            meter=meter,
            port=self._port(index, meter, random),
        )

    def _checks(self, seeded: Callable[[int], Random]) -> Iterator[Customer]:
        """A check meter for each feeder, at the addresses after the customers'."""
        behind: dict[str, list[Customer]] = {}
        for customer in self._customers.values():
            behind.setdefault(customer.feeder, []).append(customer)
        for index, (feeder, customers) in enumerate(behind.items(), self.options.meters):
            random = seeded(self.options.seed * 1_000_003 + index)
            curve = FeederCurve([customer.meter for customer in customers])
            meter = self._meter(index, curve, THIRDS, random)
            yield Customer(
                id=f"check-{feeder}",
                feeder=feeder,
                profile=SHOP,
                # Room for what is tapped before the meters.
                p_max_w=2 * sum(customer.p_max_w for customer in customers),
                meter=meter,
                port=self._port(index, meter, random),
                is_check=True,
            )

    def _meter(self, index: int, curve: Curve, shares: Phases, random: Random) -> Meter:
        """The meter of a place."""
        options = self.options
        return Meter(
            MeterOptions(
                serial=f"LQN/{options.seed % 10_000:04d}{index:08d}",
                output_on=options.output_on,
                upstream=options.upstream,
                feedback=options.feedback,
                shares=shares,
                start_wh=(between(random, 2e5, 8e6), between(random, 1e4, 1e6)),
                utc_s=self._start_utc_s,
                save_s=options.save_s,
                restart_s=options.restart_s,
                hole_registers=options.hole_registers,
            ),
            curve,
            Mains(random),
            random,
        )

    def _port(self, index: int, meter: Meter, random: Random) -> Port:
        """Where the meter of a place answers."""
        options = self.options
        host = f"{options.network}.{index // METERS_PER_NET}.{index % METERS_PER_NET + 1}"
        return Port(
            Device(meter, IPv4Address(host)),
            host=host,
            port=options.port,
            clock=self._clock,
            now_s=self.now_s,
            spawn=self._spawn,
            random=random,
            latency_s=options.latency_s,
            connections=options.connections,
        )

    def _curve(self, profile: Profile, random: Random) -> LoadCurve:
        """The load of one customer."""
        options = self.options
        day_start_s = (self._start_utc_s + options.utc_offset_s) % DAY_S
        if options.load_w is None:
            return profile_curve(
                profile, random, swing_share=options.swing, day_start_s=day_start_s
            )
        return steady_curve(
            options.load_w,
            power_factor=between(random, 0.8, 0.95),
            pattern=swing(random, options.swing),
            day_start_s=day_start_s,
        )

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        """Start a named task that ends with the site."""
        if self._group is None:
            coroutine.close()
            return
        task = self._group.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_generator(self) -> None:
        """Follow the generator's hours by the wall clock."""
        while True:
            self._follow_generator()
            await self._clock.sleep(min(GENERATOR_LOOK_S, self._until_generator_s()))

    def _local_s(self) -> float:
        """Local time of day in seconds."""
        return (self._clock.utc_ms() / MS_PER_S + self.options.utc_offset_s) % DAY_S

    def _until_generator_s(self) -> float:
        """Seconds to the next start or end of generator hours, never quite 0."""
        local_s = self._local_s()
        edges = (hour * 3600 for hours in self.options.generator_hours for hour in hours)
        return max(0.001, min(((edge - local_s) % DAY_S for edge in edges), default=DAY_S))

    def _follow_generator(self) -> None:
        """Let every meter's input 0.0 show whether the generator runs."""
        hour = self._local_s() / 3600
        scheduled = any(start <= hour < end for start, end in self.options.generator_hours)
        running = scheduled if self._generator_forced is None else self._generator_forced
        if running == self.generator_running:
            return
        self.generator_running = running
        now_s = self.now_s()
        for customer in self._customers.values():
            customer.meter.set_generator(now_s, running=running)


def _shares(random: Random) -> Phases:
    """An uneven split over three phases."""
    first, second, third = (between(random, 0.7, 1.3) for _ in range(3))
    total = first + second + third
    return (first / total, second / total, third / total)


def _problems(group: BaseExceptionGroup[ConfigurationError]) -> tuple[str, ...]:
    """Every problem named in a group of errors."""
    problems: list[str] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            problems += _problems(error)
        else:
            problems += error.problems
    return tuple(problems)


def raise_file_limit(needed: int) -> None:
    """Let this process open `needed` files.

    Raises ConfigurationError where the machine does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        problem = f"simulation.meters: {needed} open files are needed, the limit is {hard}"
        raise ConfigurationError((f"{problem} (raise it with ulimit -Hn or LimitNOFILE)",))
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
