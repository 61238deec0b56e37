"""Days of a node: the firmware that ships lives through networks, modules and mains that fail."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.sim.loads import steady_curve
from gateway.sim.pzem import PzemFault
from tests.soak.node_world import World, release

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
LOADS_W: Final = (0.0, 60.0, 300.0, 800.0, 2_400.0, 4_000.0)
INCIDENTS_A_DAY: Final = 20

Incident = Callable[[World], Awaitable[None]]


def load(world: World, power_w: float | None = None) -> None:
    """Another demand."""
    chosen_w = world.random.choice(LOADS_W) if power_w is None else power_w
    world.module.set_load(world.time.now_s, steady_curve(chosen_w))


async def wifi_lost(world: World) -> None:
    """The network goes under an open connection; quarters of an hour are kept and come after."""
    world.node.wifi(up=False)
    await world.pass_s(world.random.uniform(10, 2 * HOUR_S))
    world.node.wifi(up=True)
    await world.recovered()


async def broker_lost(world: World) -> None:
    """The broker is killed, and comes back empty."""
    await world.gateway.stop()
    await world.broker.kill()
    await world.pass_s(world.random.uniform(1, HOUR_S))
    await world.broker.start()
    await world.gateway.start()
    await world.recovered()


async def gateway_lost(world: World) -> None:
    """The broker takes everything, and nobody answers."""
    await world.gateway.stop()
    await world.pass_s(world.random.uniform(60, HOUR_S))
    await world.gateway.start()
    await world.recovered()


async def module_silent(world: World) -> None:
    """No answers, for a blink or for long."""
    world.module.add_fault(PzemFault.SILENT)
    await world.pass_s(world.random.choice([1, 5, 20, 600, 1_800]))
    world.module.clear_faults()
    await world.recovered()


async def module_noisy(world: World) -> None:
    """Spoilt, short and late answers among good ones."""
    for _ in range(20):
        fault = world.random.choice([PzemFault.WRONG_CRC, PzemFault.SHORT, PzemFault.LATE])
        world.module.add_fault(fault, world.random.randrange(1, 9))
        await world.pass_s(world.random.uniform(1, 30))
    world.module.clear_faults()
    await world.recovered()


async def module_lies(world: World) -> None:
    """The counter jumps by what nobody can have used, and comes back."""
    by_wh = world.random.choice([50_000, 1_000_000])
    # The truth stays where it was: nothing of the jump counts.
    world.module.move_counter(by_wh)
    world.lost_wh -= by_wh
    await world.pass_s(world.random.uniform(10, 600))
    world.module.move_counter(-by_wh)
    world.lost_wh += by_wh
    await world.recovered()
    world.counted["jumps"] += 1


async def power_cut(world: World) -> None:
    """Mains away; the module has forgotten a few watt-hours. The relay comes back as it was."""
    await world.pass_s(world.random.uniform(0, 120))
    await world.node.power_off()
    await mains_back(world)


async def power_cut_anywhere(world: World) -> None:
    """The same while it is at work, wherever that is."""
    at_ms = world.time.now_ms + 600_000
    await world.node.run_and_cut(at_ms, world.random.uniform(0.01, 1.0))
    await mains_back(world)


async def mains_back(world: World) -> None:
    """Supply ends with the node's power, and returns with it."""
    world.module.cut_mains(world.time.now_s)
    await world.pass_s(world.random.choice([15, 60, 1_800]))
    # A module saves its counter in time, or is a little late.
    lost_wh = world.random.choice([0, 0, 1, 3])
    world.module.restore_mains(world.time.now_s, lost_wh=lost_wh)
    world.lost_wh += lost_wh
    world.forgotten_wh = lost_wh
    expected, world.closed = world.closed, None
    await world.node.power_on()
    await world.pass_s(2)
    world.closed = expected
    await world.recovered()
    await world.command("time", unix_s=world.time.now_ms // 1_000)
    world.counted["power cuts"] += 1


async def watchdog(world: World) -> None:
    """The watchdog bites wherever the node is; the relay does not move."""
    moves = world.node.moves
    await world.node.run_and_cut(world.time.now_ms + 600_000, world.random.uniform(0.01, 0.5))
    await world.node.watchdog()
    await world.recovered()
    assert world.node.moves == moves
    world.counted["watchdog resets"] += 1


async def clock_jumps(world: World) -> None:
    """The gateway's clock was wrong by a day, and is put right."""
    right_s = world.time.now_ms // 1_000
    await world.command("time", unix_s=right_s + world.random.choice([-DAY_S, -60, 60, DAY_S]))
    await world.pass_s(world.random.uniform(60, 1_800))
    await world.command("time", unix_s=world.time.now_ms // 1_000)
    await world.recovered()


async def flash_full(world: World) -> None:
    """Nothing new fits; metering, records and leases go on."""
    world.node.flash_full(full=True)
    assert await world.command("settings", telemetry_s=10) == "STORAGE_FULL"
    world.node.wifi(up=False)
    await world.pass_s(world.random.uniform(1_000, 3_000))
    world.node.wifi(up=True)
    await world.recovered()
    world.node.flash_full(full=False)


async def overload(world: World) -> None:
    """It opens after its delay, tries again after its hold, and stays closed when that is over."""
    load(world, 7_000.0)
    moves, world.closed = world.node.moves, None
    await world.pass_s(60)
    assert not world.node.relay_closed
    load(world, 300.0)
    await world.pass_s(240)
    world.closed = True
    assert (world.node.relay_closed, world.node.moves) == (True, moves + 2)
    world.counted["trips"] += 1


async def bad_voltage(world: World) -> None:
    """Above its limit for a while."""
    world.module.mains.voltage_dv = 2_750
    moves, world.closed = world.node.moves, None
    await world.pass_s(world.random.uniform(30, 600))
    assert not world.node.relay_closed
    world.module.mains.voltage_dv = 2_300
    await world.pass_s(240)
    world.closed = True
    assert (world.node.relay_closed, world.node.moves) == (True, moves + 2)
    world.counted["trips"] += 1


async def lease_alone(world: World) -> None:
    """Cut at the watt-hour without anybody, held, closed by a newer lease and a command."""
    load(world, 1_800.0)
    await world.pass_s(3)
    cutoff_wh = world.truth_wh + world.random.randrange(2, 40)
    assert await lease(world, cutoff_wh) == "DONE"
    world.node.wifi(up=False)
    moves, world.closed = world.node.moves, None
    await world.pass_s(300)
    assert (world.node.relay_closed, world.node.moves) == (False, moves + 1)
    # A watt-hour that the module forgot is one that no node can count.
    assert cutoff_wh <= world.truth_wh <= cutoff_wh + 1 + world.lost_wh
    world.closed = False
    await world.pass_s(world.random.uniform(0, HOUR_S))
    world.node.wifi(up=True)
    await world.recovered()
    assert await world.command("relay", closed=True) == "LEASE_REACHED"
    assert await lease(world, 0x7FFFFFFF) == "DONE"
    world.closed = None
    assert await world.command("relay", closed=True) == "DONE"
    world.closed = True
    await world.pass_s(5)
    world.counted["leases reached"] += 1


async def lease(world: World, cutoff_wh: int) -> str:
    """Grant one; the code of its result."""
    world.counted["leases"] += 1
    return await world.command(
        "lease",
        epoch="E1",
        seq=world.counted["leases"],
        cutoff_wh=cutoff_wh,
        expires=0,
        policy="hold",
        grace_wh=0,
        limit_w=0,
        emergency_limit_w=0,
    )


async def bad_update(world: World) -> None:
    """Pieces of noise; the network goes in their midst. It is refused, and the node runs on."""
    world.bundle, world.spoil = world.random.randbytes(30_000), True
    session = world.session
    assert await update(world, world.bundle, "9.9.9", "0" * 64) == "DONE"
    await world.pass_s(world.random.uniform(1, 5))
    world.node.wifi(up=False)
    await world.pass_s(60)
    world.node.wifi(up=True)
    await world.pass_s(600)
    await world.recovered()
    assert world.session == session
    world.counted["updates refused"] += 1


async def good_update(world: World) -> None:
    """The application itself as a release: fetched, tried, proved; the relay does not move."""
    world.counted["updates"] += 1
    bundle = release(f"1.{world.counted['updates']}.0", 1)
    world.bundle, world.spoil = bundle.raw, False
    session, moves = world.session, world.node.moves
    version = bundle.release.version
    assert await update(world, bundle.raw, version, bundle.sha256) == "DONE"
    for _ in range(60):
        await world.pass_s(10)
        if world.session != session:
            break
    await world.recovered()
    await world.pass_s(30)
    assert world.node.moves == moves
    status = [told for told in world.gateway.all("status") if told["online"]][-1]
    assert (status["firmware"], status["trial"]) == (version, False), status


async def update(world: World, raw: bytes, version: str, sha256: str) -> str:
    """Order one; the code of its result."""
    return await world.command("update", version=version, size=len(raw), sha256=sha256, security=1)


INCIDENTS: Final[tuple[Incident, ...]] = (
    wifi_lost,
    broker_lost,
    gateway_lost,
    module_silent,
    module_noisy,
    module_lies,
    power_cut,
    power_cut_anywhere,
    watchdog,
    clock_jumps,
    flash_full,
    overload,
    bad_voltage,
    lease_alone,
    bad_update,
    good_update,
)


async def live_a_day(world: World, seconds: float, incidents: Sequence[Incident]) -> None:
    """Hours of metering with incidents between, in a random order; a calm end."""
    await world.start()
    assert await lease(world, 0x7FFFFFFF) == "DONE"
    calm_s = seconds / (len(incidents) + 2)
    for incident in incidents:
        load(world)
        await world.pass_s(world.random.uniform(0, calm_s))
        await incident(world)
        world.counted["incidents"] += 1
    load(world)
    await world.pass_s(2 * calm_s)
    await world.recovered()
    # Whatever was kept has come; everything that happened was told, once each.
    assert [told["spooled"] for told in world.gateway.all("status") if told["online"]][-1] == 0
    assert world.record_gap == 0
    assert world.events("trip") == world.counted["trips"]
    assert world.events("lease_reached") == world.counted["leases reached"]
    assert world.events("register_jump") == world.counted["jumps"]
    world.judge_samples()


def node_days(seed: int, start: int, count: int, directory: Path) -> Mapping[str, int]:
    """So many days of a node, each a world of its own; its figures. Raises AssertionError."""
    found: Counter[str] = Counter()
    for number in range(start, start + count):
        place = directory / str(number)
        place.mkdir()
        chance = random.Random(f"{seed} {number} incidents")
        # Every kind at least once, the others by chance.
        incidents = [*INCIDENTS, *chance.choices(INCIDENTS, k=INCIDENTS_A_DAY - len(INCIDENTS))]
        chance.shuffle(incidents)
        found += asyncio.run(node_day(place, f"{seed} {number}", DAY_S, incidents))
    return found


async def node_day(
    place: Path, seed: str, seconds: float, incidents: Sequence[Incident]
) -> Counter[str]:
    """One of them, with its incidents in their order; `seconds` of calm are spread among them."""
    world = World(place, seed)
    began_ms = world.time.now_ms
    try:
        await live_a_day(world, seconds, incidents)
    except AssertionError as error:
        names = [incident.__name__ for incident in incidents]
        told: list[Any] = [world.counted["incidents"], names, world.gateway.heard[-3:]]
        raise AssertionError(f"{error} {told}") from error
    finally:
        await world.stop()
    hours = (world.time.now_ms - began_ms) // 3_600_000
    world.counted["hours"] = hours
    world.counted["relay moves"] = world.node.moves
    world.counted["samples"] = len(world.node.samples)
    world.counted["impatient"] = world.node.impatient
    return world.counted
