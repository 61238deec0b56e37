"""Simulated meters read in virtual time by the real control code: no sockets, no waiting."""

from pathlib import Path

from gateway.app.clock import seeded
from gateway.core.reading import Lane, Reading
from gateway.sim.feeder import FeederCurve
from gateway.sim.image import Image
from gateway.sim.loads import Curve, Mains, steady_curve
from gateway.sim.meter import Meter, MeterOptions
from gateway.south.models import meter_model
from gateway.south.plan import lane_plans
from gateway.store.telemetry import Event
from tests.app.control_site import START_MS, ControlSite

CONFIG = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
watch:
  feeder: {half_hours: 2}
  transformer: {reversed_s: 600, feed_in_s: 7200}
defaults: {pac3220: {port: 1, p_max_w: 22080, export: alarmed}}
meters:
  - {id: flat-1, model: pac3220, host: 127.0.0.1, feeder: riser}
  - {id: flat-2, model: pac3220, host: 127.0.0.2, feeder: riser, export: ignored}
  - {id: head, model: pac3220, host: 127.0.0.3, feeder: riser, role: check, p_max_w: 100000}
"""
THIRDS = (1 / 3, 1 / 3, 1 / 3)
STEP_S = 10.0
PLAN = lane_plans(meter_model("pac3220"), "0.0", None)[Lane.FULL]


class WatchedSite(ControlSite):
    """Two flats of 3 kW and the check meter of their riser."""

    def __init__(self, directory: Path) -> None:
        (directory / "config.yaml").write_text(CONFIG, encoding="utf-8")
        self.flats = [meter_of(steady_curve(3_000.0)) for _ in range(2)]
        self.meters = [*self.flats, meter_of(FeederCurve(self.flats))]
        self._images = [Image(meter) for meter in self.meters]
        self._begun_ms = START_MS
        self.events: list[Event] = []
        super().__init__(directory)

    @property
    def now_s(self) -> float:
        """Seconds of the simulated meters."""
        return (self.clock.utc_ms() - self._begun_ms) / 1_000

    async def run(self, seconds: float, *, step_s: float = STEP_S, without: int = -1) -> None:
        """Let time pass, reading every meter each step but one (`without`), with its sweep."""
        for _ in range(round(seconds / step_s)):
            self.clock.pass_s(step_s)
            for index in range(len(self.meters)):
                if index != without:
                    self.read_meter(index)
            self.events += self.keeper._events
            await self.sweeper.sweep()
            self.watchman.keep()

    def read_meter(self, index: int) -> None:
        """A full reading of a simulated meter, decoded as the driver does."""
        image, point = self._images[index], self.engine.points[index]
        payloads = [image.read(self.now_s, read.address, read.count) for read in PLAN.reads]
        values = PLAN.decode(payloads)
        diagnostics = int(values[PLAN.diagnostics_at or 0])
        reading = Reading(
            sequence=point.last_sequence + 1,
            mono_ns=self.clock.mono_ns(),
            utc_ms=self.clock.utc_ms(),
            lane=Lane.FULL,
            energy_wh=PLAN.energy_wh(values),
            output_closed=True,
            current_a=max(values[at] for at in PLAN.currents_at),
            power_w=values[PLAN.power_at or 0],
            restarted=False,
            diagnostics=diagnostics,
            meter_clock_s=int(values[PLAN.clock_at or 0]),
            values=values[: PLAN.value_count],
        )
        self.engine.on_reading(index, reading)

    def told(self, kind: str) -> list[tuple[str, str]]:
        """Subject and severity of the events of a kind, in order."""
        every = [*self.events, *self.keeper._events]
        unique = list({id(event): event for event in every}.values())
        return [(event.subject, event.severity) for event in unique if event.kind == kind]


def meter_of(curve: Curve) -> Meter:
    """A three-phase meter that is wired as it should be."""
    random = seeded(1)
    options = MeterOptions(shares=THIRDS, start_wh=(10_000.0, 0.0), utc_s=START_MS / 1_000)
    return Meter(options, curve, Mains(random), random)
