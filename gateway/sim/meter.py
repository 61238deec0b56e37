"""The state of one simulated PAC3220 and how it reacts, as pure functions of time.

Every method takes the instant in seconds of the site; nothing here waits or reads a clock.
What the manual leaves open is decided the harder way for a driver, and said where it is decided.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.core.errors import MeterExceptionError
from gateway.sim.contactor import Contactor
from gateway.sim.counters import Counters
from gateway.sim.electrics import Extremes, Phases
from gateway.sim.faults import Fault, FaultKind, FaultSet
from gateway.sim.journal import Journal, Part, Switched
from gateway.sim.loads import Curve, Mains, Random, between, steady_curve
from gateway.sim.registers import (
    CONNECTION_SINGLE_PHASE,
    CONNECTION_TYPE,
    INPUT_0_USE,
    INPUT_USE_TARIFF,
    MARKING_REGISTERS,
    MODE_DEVICE_ACTIVE,
    MODE_SWITCHING,
    OUTPUT_BY_NAME,
    OUTPUTS,
    SETTING_BY_ADDRESS,
    SETTINGS,
    OutputPlace,
)
from gateway.sim.track import EnergyTrack

ILLEGAL_VALUE = 0x03

PARAMETERS_CHANGED = 0x0000_0100
RESTARTED = 0x0000_0800
COUNTERS_RESET = 0x0000_1000
WRITE_PROTECTED_BIT = 0x4000_0000
PASSWORD_BIT = 0x8000_0000
MODULE_BITS = {1: 0x0001_0000, 2: 0x0004_0000}

REFRESH_S = 0.2  # a measuring window of ten periods
SAVE_S = 300.0  # counters are written to non-volatile memory this often
RESTART_S = 3.0


class OutputOn(StrEnum):
    """What an energised output does to the supply."""

    CONNECTS = "connects"
    DISCONNECTS = "disconnects"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterOptions:
    """How one meter is made and wired.

    `output` is the output that drives the contactor ("0.0" …), `upstream` whether the contactor
    sits before the meter's voltage inputs, `feedback` whether its auxiliary contact is wired to
    digital input 0.1. `shares` split the load over the phases. `start_wh` are the active import
    registers T1 and T2 at t = 0 and `utc_s` the wall clock then. `commissioned` presets the
    parameters a technician would: the output switchable, input 0.0 on tariff.
    """

    serial: str = "LQN/000000000001"
    output: str = "0.0"
    output_on: OutputOn = OutputOn.CONNECTS
    upstream: bool = False
    feedback: bool = True
    closed: bool = True
    commissioned: bool = True
    shares: Phases = (1.0, 0.0, 0.0)
    start_wh: tuple[float, float] = (0.0, 0.0)
    utc_s: float = 0.0
    refresh_s: float = REFRESH_S
    save_s: float = SAVE_S
    restart_s: float = RESTART_S
    hole_registers: int = 0
    modules: frozenset[int] = field(default_factory=frozenset)


@dataclass(slots=True)
class ChangeCounters:
    """Registers 217 and 219: writes of basic and of all parameters."""

    basic: int = 0
    all: int = 0


class Meter:
    """One PAC3220 with its contactor and its customer.

    `track` is the truth about energy, `counters` what the registers show, `journal` the switching.
    """

    def __init__(self, options: MeterOptions, curve: Curve, mains: Mains, random: Random) -> None:
        self.options = options
        self.mains = mains
        self.faults = FaultSet()
        self.journal = Journal()
        self.track = EnergyTrack(curve, start_wh=options.start_wh, conducting=options.closed)
        self.contactor = Contactor(random, closed=options.closed)
        self.counters = Counters(
            self.track,
            options.shares,
            refresh_s=options.refresh_s,
            phase_s=between(random, 0.0, options.refresh_s),
            save_s=options.save_s,
            boot_s=-between(random, 0.0, options.save_s),
        )
        self.tap: EnergyTrack | None = None
        self.settings = {setting.address: setting.default for setting in SETTINGS}
        self.marking = bytes(2 * MARKING_REGISTERS)
        self.changes = ChangeCounters()
        self.extremes = Extremes()
        self.demand_start_s = 0.0
        self.latched = 0
        self.universal_counter = 0
        self.operating_start_s = -between(random, 1e5, 1e7)
        self._driver = OUTPUT_BY_NAME[options.output]
        self._commanded = {output.code: False for output in OUTPUTS}
        self._timeouts: dict[int, float] = {}
        self._bus_tariff = 0
        self._generator = False
        self._powered = True
        self._kept: tuple[float, ...] = ()
        self._ready_s = -math.inf
        self._next_s = math.inf
        if options.commissioned:
            self.settings[self._driver.mode] = MODE_SWITCHING
            self.settings[INPUT_0_USE] = INPUT_USE_TARIFF
            if options.shares[1:] == (0.0, 0.0):
                self.settings[CONNECTION_TYPE] = CONNECTION_SINGLE_PHASE
        self._commanded[self._driver.code] = options.closed is (
            options.output_on is OutputOn.CONNECTS
        )
        self._supply_wanted = self._wants_supply()

    # --- what can be seen ------------------------------------------------------------------------

    def answers(self, t_s: float) -> bool:
        """Whether the meter is powered and has finished starting."""
        return self._powered and t_s >= self._ready_s

    @property
    def ready_s(self) -> float:
        """When a restart in progress ends; in the past where none is."""
        return self._ready_s

    @property
    def powered(self) -> bool:
        """Whether the meter's own supply is there."""
        return self._powered

    @property
    def energised(self) -> bool:
        """Whether the meter's voltage inputs see the mains."""
        return self._powered and (not self.options.upstream or self._passes())

    @property
    def tariff(self) -> int:
        """The register that counts: 0 = T1, 1 = T2."""
        if self.settings[INPUT_0_USE] == INPUT_USE_TARIFF:
            return int(self._generator)
        return self._bus_tariff

    @property
    def inputs(self) -> int:
        """Status bits of the digital inputs: 0.0 generator running, 0.1 contactor closed."""
        closed = self.options.feedback and self.contactor.closed
        return int(self._generator) | int(closed) << 1

    @property
    def diagnostics(self) -> int:
        """Register 205: latched bits and present states."""
        bits = self.latched
        for module in self.options.modules:
            bits |= MODULE_BITS[module]
        if FaultKind.WRITE_PROTECTED in self.faults:
            bits |= WRITE_PROTECTED_BIT
        if FaultKind.PASSWORD in self.faults:
            bits |= PASSWORD_BIT
        return bits

    def net_w(self, t_s: float) -> float:
        """What the load takes at an instant less what a roof feeds in, in W."""
        roof = self.counters.roof
        return self.track.power_w(t_s) - (roof.power_w(t_s) if roof is not None else 0.0)

    @property
    def current_gains(self) -> Phases:
        """What each phase's current is multiplied by: 1 where the transformer is right."""
        gain = self.faults.amount(FaultKind.CT_RATIO) or 1.0
        if FaultKind.CT_REVERSED not in self.faults:
            return (gain, gain, gain)
        phase = self.faults.amount(FaultKind.CT_REVERSED)
        first, second, third = (-gain if phase in (0, at) else gain for at in (1, 2, 3))
        return (first, second, third)

    @property
    def current_places(self) -> tuple[int, int, int]:
        """Which phase's current (0 … 2) each phase measures."""
        if FaultKind.PHASES_EXCHANGED not in self.faults:
            return (0, 1, 2)
        kept = self.faults.amount(FaultKind.PHASES_EXCHANGED)
        return {2: (2, 1, 0), 3: (1, 0, 2)}.get(int(kept), (0, 2, 1))

    def output_is_on(self, output: OutputPlace) -> bool:
        """Whether an output conducts."""
        if not self._powered:
            return False
        if output is self._driver and FaultKind.MANUAL_OVERRIDE in self.faults:
            return self.faults.amount(FaultKind.MANUAL_OVERRIDE) != 0
        mode = self.settings[output.mode]
        if mode == MODE_SWITCHING:
            return self._commanded[output.code]
        return mode == MODE_DEVICE_ACTIVE

    def outputs(self, module: int) -> int:
        """Status bits of the outputs of the meter (0) or of a module (1, 2)."""
        return sum(
            1 << output.bit
            for output in OUTPUTS
            if output.module == module and self.output_is_on(output)
        )

    def has_module(self, module: int) -> bool:
        """Whether a slot is fitted; slot 0 is the meter itself."""
        return module == 0 or module in self.options.modules

    # --- time ------------------------------------------------------------------------------------

    def advance(self, t_s: float) -> None:
        """Let everything happen that was due by `t_s`; called by every method that looks."""
        while self._next_s <= t_s:
            at_s = self._next_s
            if self.contactor.next_s <= at_s:
                move = self.contactor.step()
                self._note(at_s, Part.CONTACTOR, closed=move.closed)
                self._settle(at_s)
                if FaultKind.AUXILIARY_BEHIND_CONTACTOR in self.faults:
                    self._follow_contactor(at_s)
            else:
                code = min(self._timeouts, key=self._timeouts.__getitem__)
                del self._timeouts[code]
                if FaultKind.REMOTE_TIMEOUT_IGNORED not in self.faults:
                    self._commanded[code] = False
                self._settle(at_s)

    def set_load(self, t_s: float, curve: Curve) -> None:
        """Put another load behind the meter."""
        self.advance(t_s)
        self.track.change(t_s, curve=curve)

    def set_generator(self, t_s: float, *, running: bool) -> None:
        """The contact at digital input 0.0: the generator feeds the site."""
        self.advance(t_s)
        self._generator = running
        self._settle(t_s)

    def add_fault(self, t_s: float, fault: Fault) -> None:
        """Put a fault in force from `t_s`."""
        self.advance(t_s)
        self.faults.add(fault)
        self._rewire(t_s)
        self._settle(t_s)

    def clear_faults(self, t_s: float, kind: FaultKind | None = None) -> None:
        """End one fault or all; the contactor follows its coil again."""
        self.advance(t_s)
        self.faults.clear(kind)
        self._rewire(t_s)
        self._settle(t_s)

    # --- power -----------------------------------------------------------------------------------

    def cut_power(self, t_s: float) -> None:
        """Supply and auxiliary supply fail; passive outputs open. A second cut changes nothing."""
        self.advance(t_s)
        if self._powered:
            self._lose_power(t_s)

    def restore_power(self, t_s: float) -> None:
        """Supply returns; the meter starts with what it had saved and its outputs off."""
        self.advance(t_s)
        if not self._powered:
            self._regain_power(t_s)

    def restart(self, t_s: float) -> None:
        """Restart in good order: counters are saved, outputs go off."""
        self.advance(t_s)
        self._forget_commands()
        self._started(t_s)

    # --- writes ----------------------------------------------------------------------------------

    def switch(self, t_s: float, output: OutputPlace, *, on: bool) -> None:
        """Switch one output as 60008 does.

        An output of another type of use acknowledges and stays as it is (the manual says only
        "if parameterized"). Raises MeterExceptionError 03 for a slot that is not fitted.
        """
        self.advance(t_s)
        if not self.has_module(output.module):
            raise MeterExceptionError(f"output {output.name} is not fitted", ILLEGAL_VALUE)
        if self.settings[output.mode] != MODE_SWITCHING or FaultKind.SWITCH_IGNORED in self.faults:
            return
        self._commanded[output.code] = on
        self._timeouts.pop(output.code, None)
        timeout_s = self.settings[output.remote_timeout]
        if on and timeout_s:
            self._timeouts[output.code] = t_s + timeout_s
        self._settle(t_s)

    def set_tariff(self, t_s: float, tariff: int) -> None:
        """Choose T1 (0) or T2 (1) over the bus; without effect while input 0.0 rules the tariff."""
        self.advance(t_s)
        self._bus_tariff = tariff
        self._settle(t_s)

    def reset_counters(self, t_s: float, choice: int) -> None:
        """Set all energy counters (0) or one kind (1 … 10) to 0, and latch that a user did."""
        self.advance(t_s)
        self.counters.reset(t_s, choice)
        self.latched |= COUNTERS_RESET

    def reset_settings(self, t_s: float) -> None:
        """Every parameter to the factory's default, then a restart."""
        self.settings = {setting.address: setting.default for setting in SETTINGS}
        self.restart(t_s)

    def set_setting(self, t_s: float, address: int, value: int) -> None:
        """Write one parameter; its twin register follows.

        Raises MeterExceptionError 03 for a value outside its range.
        """
        self.advance(t_s)
        self.check_setting(address, value)
        setting = SETTING_BY_ADDRESS[address]
        self.settings[address] = value
        if setting.mirror is not None:
            self.settings[setting.mirror] = value
        self.latched |= PARAMETERS_CHANGED
        self.note_change(basic=setting.basic)
        self._settle(t_s)

    def check_setting(self, address: int, value: int) -> None:
        """Raise MeterExceptionError 03 for a value outside the parameter's range."""
        setting = SETTING_BY_ADDRESS[address]
        if not setting.low <= value <= setting.high:
            raise MeterExceptionError(f"{address} cannot be {value}", ILLEGAL_VALUE)

    def note_change(self, *, basic: bool) -> None:
        """Count a write by FC 0x10 (p116)."""
        self.changes.all += 1
        self.changes.basic += int(basic)

    # --- inside ----------------------------------------------------------------------------------

    def _passes(self) -> bool:
        """Whether the contactor, or a bridge past it, lets the load through."""
        return self.contactor.closed or FaultKind.CONTACTOR_BYPASSED in self.faults

    def _wants_supply(self) -> bool:
        """Whether the driving output asks the contactor to close."""
        connects = self.options.output_on is OutputOn.CONNECTS
        return self.output_is_on(self._driver) is connects

    def _settle(self, t_s: float) -> None:
        """Bring contactor, energy and schedule in line with everything that was changed."""
        wanted = self._wants_supply()
        if wanted != self._supply_wanted:
            self._supply_wanted = wanted
            self._note(t_s, Part.OUTPUT, closed=wanted)
        self.contactor.command(
            t_s,
            close=wanted,
            bounces=int(self.faults.amount(FaultKind.CONTACTOR_BOUNCES)),
            welded=FaultKind.CONTACTOR_WELDED in self.faults,
        )
        flows = self._powered and self._passes()
        self.track.change(t_s, conducting=flows, tariff=self.tariff)
        if self.counters.roof is not None:
            self.counters.roof.change(t_s, conducting=flows, tariff=self.tariff)
        self._next_s = min(self.contactor.next_s, *self._timeouts.values(), math.inf)

    def _note(self, t_s: float, part: Part, *, closed: bool) -> None:
        """Write a movement into the journal, with the energy true at that moment."""
        self.journal.note(Switched(t_s, part, closed, self.track.total_wh(t_s)))

    def _rewire(self, t_s: float) -> None:
        """Let the counters follow what the current transformers say, and the tap what it draws."""
        self.counters.set_gains(t_s, self.current_gains)
        tapped_w = self.faults.amount(FaultKind.TAPPED)
        if tapped_w and self.tap is None:
            self.tap = EnergyTrack(steady_curve(0.0), start_wh=(0.0, 0.0), conducting=True)
        if self.tap is not None:
            self.tap.change(t_s, curve=steady_curve(tapped_w))
        fed_w, roof = self.faults.amount(FaultKind.ROOF), self.counters.roof
        if fed_w and roof is None:
            flows = self.track.last.conducting
            roof = EnergyTrack(steady_curve(0.0), start_wh=(0.0, 0.0), conducting=flows)
            self.counters.roof = roof
        if roof is not None:
            roof.change(t_s, curve=steady_curve(fed_w, power_factor=1.0), tariff=self.tariff)

    def _follow_contactor(self, t_s: float) -> None:
        """The meter lives on what its own contactor lets through."""
        if self._powered and not self._passes():
            self._lose_power(t_s)
        elif not self._powered and self._passes():
            self._regain_power(t_s)

    def _lose_power(self, t_s: float) -> None:
        self._kept = self.counters.lose_since_save(t_s)
        self._powered = False
        self._forget_commands()
        self._settle(t_s)

    def _regain_power(self, t_s: float) -> None:
        self._powered = True
        self.counters.resume(t_s, self._kept)
        self._started(t_s)

    def _forget_commands(self) -> None:
        """Outputs lose their state with the power (passive contacts, p28)."""
        self._commanded = dict.fromkeys(self._commanded, False)
        self._timeouts.clear()
        self._bus_tariff = 0

    def _started(self, t_s: float) -> None:
        """The meter begins to start: silent for a while, the restart bit latched (p120)."""
        self._ready_s = t_s + self.options.restart_s
        self.latched |= RESTARTED
        self._settle(t_s)
