"""What a simulated customer draws, as closed formulas of time.

Power is piecewise constant: a mean per quarter hour of the local day times a swing pattern that
changes every `step_s` and repeats every five minutes. Both are known in advance, so energy is a
sum of prefix sums: exact at any instant and invertible, without a tick. Patterns are arrays, a
tenth of the memory of lists.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

DAY_S = 86_400
QUARTER_S = 900
QUARTERS = DAY_S // QUARTER_S
PATTERN_S = 300  # divides a quarter hour, so that every quarter holds whole patterns
STEPS_S = (0.2, 0.25, 0.5, 1.0)  # each divides PATTERN_S; a swing within a second
SECONDS_PER_HOUR = 3600.0


class Random(Protocol):
    """A seeded source of randomness (`random.Random` fits)."""

    def random(self) -> float:
        """The next number in [0, 1)."""
        ...


def between(random: Random, low: float, high: float) -> float:
    """A number in [low, high), evenly spread."""
    return low + (high - low) * random.random()


class Energy(NamedTuple):
    """Active, reactive and apparent energy since some start."""

    active_wh: float
    reactive_varh: float
    apparent_vah: float


NO_ENERGY = Energy(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Quarter:
    """One quarter hour of the local day: mean power and power factor (0 < factor <= 1)."""

    power_w: float
    power_factor: float


@dataclass(frozen=True, slots=True)
class Swing:
    """Factors on the mean power, one per `step_s`, repeated every PATTERN_S.

    Raises ValueError where the factors do not fill the pattern or one is not positive.
    """

    factors: Sequence[float]
    step_s: float

    def __post_init__(self) -> None:
        """Refuse a pattern that would leave part of the time undefined."""
        if not math.isclose(len(self.factors) * self.step_s, PATTERN_S):
            raise ValueError(f"{len(self.factors)} steps of {self.step_s} s are not {PATTERN_S} s")
        if min(self.factors) <= 0:
            raise ValueError("a swing factor must be positive")


FLAT = Swing((1.0,), PATTERN_S)


class Curve(Protocol):
    """A demand over time, as a track of energy needs it."""

    @property
    def peak_w(self) -> float:
        """The highest power that it ever reaches."""
        ...

    def power_w(self, t_s: float) -> float:
        """Power at an instant, in W."""
        ...

    def energy(self, t_s: float) -> Energy:
        """Energy from t = 0 to `t_s`."""
        ...

    def quarter(self, t_s: float) -> Quarter:
        """Mean power and power factor around an instant."""
        ...

    def time_of_energy(self, energy_wh: float) -> float:
        """The first instant at which this active energy had been drawn; infinite: never."""
        ...


class LoadCurve:
    """The demand of one customer, were the supply connected.

    `quarters` are the QUARTERS of a local day, repeated every day; `day_start_s` is the local time
    of day, in seconds, at t = 0. All `t_s` are seconds since that start, not negative.
    """

    __slots__ = ("_day", "_day_start_s", "_origin", "_pattern", "_prefix", "_quarters", "_swing")

    def __init__(self, quarters: Sequence[Quarter], swing: Swing, day_start_s: float) -> None:
        if len(quarters) != QUARTERS:
            raise ValueError(f"a day has {QUARTERS} quarter hours, not {len(quarters)}")
        self._quarters = tuple(quarters)
        self._swing = swing
        self._day_start_s = day_start_s % DAY_S
        # Weighted seconds: the integral of the swing factor from the start of a pattern.
        weights = accumulate((factor * swing.step_s for factor in swing.factors), initial=0.0)
        self._pattern = array("d", weights)
        per_quarter = self._pattern[-1] * (QUARTER_S // PATTERN_S)
        energies = [_energy(quarter, per_quarter) for quarter in self._quarters]
        self._prefix = tuple(
            [0.0, *accumulate(energy[kind] for energy in energies)] for kind in range(3)
        )
        self._day = Energy(*(prefix[-1] for prefix in self._prefix))
        self._origin = NO_ENERGY
        self._origin = self.energy(0.0)

    @property
    def peak_w(self) -> float:
        """The highest power that this curve ever reaches."""
        return max(quarter.power_w for quarter in self._quarters) * max(self._swing.factors)

    @property
    def trough_w(self) -> float:
        """The lowest power that this curve ever falls to."""
        return min(quarter.power_w for quarter in self._quarters) * min(self._swing.factors)

    def quarter(self, t_s: float) -> Quarter:
        """The quarter hour that holds `t_s`."""
        return self._quarters[int((t_s + self._day_start_s) % DAY_S) // QUARTER_S]

    def power_w(self, t_s: float) -> float:
        """Power at an instant, in W."""
        within_s = (t_s + self._day_start_s) % PATTERN_S
        factors = self._swing.factors
        step = min(int(within_s / self._swing.step_s), len(factors) - 1)
        return self.quarter(t_s).power_w * factors[step]

    def energy(self, t_s: float) -> Energy:
        """Energy drawn from t = 0 to `t_s` by a load that was never cut."""
        days, second = divmod(t_s + self._day_start_s, DAY_S)
        index = min(int(second) // QUARTER_S, QUARTERS - 1)
        part = _energy(self._quarters[index], self._weighted_seconds(second - index * QUARTER_S))
        active, reactive, apparent = self._prefix
        day, origin = self._day, self._origin
        return Energy(
            days * day[0] + active[index] + part[0] - origin[0],
            days * day[1] + reactive[index] + part[1] - origin[1],
            days * day[2] + apparent[index] + part[2] - origin[2],
        )

    def energy_wh(self, t_s: float) -> float:
        """Active energy drawn from t = 0 to `t_s`, in Wh."""
        return self.energy(t_s).active_wh

    def time_of_energy(self, energy_wh: float) -> float:
        """The first instant, in s since t = 0, at which this active energy had been drawn.

        Infinite where the load never draws it; 0 for an energy that is not positive.
        """
        if energy_wh <= 0:
            return 0.0
        if self._day.active_wh <= 0:
            return math.inf
        wanted = energy_wh + self._origin.active_wh
        days = math.ceil(wanted / self._day.active_wh) - 1
        rest_wh = wanted - days * self._day.active_wh
        prefix = self._prefix[0]
        index = min(max(bisect_left(prefix, rest_wh) - 1, 0), QUARTERS - 1)
        power_w = self._quarters[index].power_w
        if power_w <= 0:  # only rounding leads here: the edge of a quarter that draws nothing
            return max(0.0, days * DAY_S + index * QUARTER_S - self._day_start_s)
        within_s = self._seconds_of_weight((rest_wh - prefix[index]) * SECONDS_PER_HOUR / power_w)
        return max(0.0, days * DAY_S + index * QUARTER_S + within_s - self._day_start_s)

    def _weighted_seconds(self, within_s: float) -> float:
        """The integral of the swing factor over the first `within_s` of a quarter."""
        pattern, factors, step_s = self._pattern, self._swing.factors, self._swing.step_s
        whole, rest_s = divmod(within_s, PATTERN_S)
        step = min(int(rest_s / step_s), len(factors) - 1)
        return whole * pattern[-1] + pattern[step] + factors[step] * (rest_s - step * step_s)

    def _seconds_of_weight(self, weighted: float) -> float:
        """The inverse of `_weighted_seconds`."""
        pattern, factors, step_s = self._pattern, self._swing.factors, self._swing.step_s
        whole, rest = divmod(weighted, pattern[-1])
        step = min(max(bisect_right(pattern, rest) - 1, 0), len(factors) - 1)
        return whole * PATTERN_S + step * step_s + (rest - pattern[step]) / factors[step]


def _energy(quarter: Quarter, weighted_s: float) -> Energy:
    """The energy of a quarter's load over seconds weighted by the swing."""
    active_wh = quarter.power_w * weighted_s / SECONDS_PER_HOUR
    apparent_vah = active_wh / quarter.power_factor
    sine = math.sqrt(1.0 - quarter.power_factor * quarter.power_factor)
    return Energy(active_wh, apparent_vah * sine, apparent_vah)


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of customer: shape of the day in shares of its evening or midday peak, and size.

    `peak_w` is the range of the mean power at the peak hour; with a swing of 50 % on top it stays
    below `p_max_w`, the breaker. `phases` is 1 or 3.
    """

    name: str
    hours: tuple[float, ...]
    peak_w: tuple[float, float]
    p_max_w: int
    phases: int


HOUSEHOLD = Profile(
    name="household",
    hours=(
        *(0.16, 0.14, 0.13, 0.13, 0.14, 0.22, 0.45, 0.62, 0.55, 0.38, 0.32, 0.34),
        *(0.42, 0.44, 0.36, 0.33, 0.38, 0.52, 0.78, 0.96, 1.00, 0.90, 0.58, 0.28),
    ),
    peak_w=(1_500.0, 4_500.0),
    p_max_w=7_360,  # 32 A at 230 V
    phases=1,
)
SHOP = Profile(
    name="shop",
    hours=(
        *(0.12, 0.12, 0.12, 0.12, 0.12, 0.14, 0.22, 0.40, 0.68, 0.86, 0.94, 1.00),
        *(1.00, 0.98, 0.97, 0.96, 0.95, 0.93, 0.90, 0.82, 0.60, 0.34, 0.18, 0.13),
    ),
    peak_w=(3_000.0, 12_000.0),
    p_max_w=22_080,  # 3 x 32 A at 230 V
    phases=3,
)


def swing(random: Random, share: float) -> Swing:
    """A random pattern within 1 - share … 1 + share, changing every 0.2 to 1 s.

    `share` is in [0, 1); 0 is a flat load.
    """
    if share == 0:
        return FLAT
    step_s = STEPS_S[int(random.random() * len(STEPS_S))]
    steps = round(PATTERN_S / step_s)
    factors = array("d", (between(random, 1 - share, 1 + share) for _ in range(steps)))
    return Swing(factors, step_s)


def profile_curve(
    profile: Profile, random: Random, *, swing_share: float, day_start_s: float
) -> LoadCurve:
    """One customer of a profile: its own size, its own quarter hours, PF 0.8 to 0.95."""
    peak_w = between(random, *profile.peak_w)
    quarters = []
    for index in range(QUARTERS):
        hour, part = divmod(index * QUARTER_S / SECONDS_PER_HOUR, 1.0)
        here = profile.hours[int(hour)]
        after = profile.hours[(int(hour) + 1) % len(profile.hours)]
        share = (here + (after - here) * part) * between(random, 0.85, 1.0)
        quarters.append(Quarter(peak_w * share, between(random, 0.8, 0.95)))
    return LoadCurve(quarters, swing(random, swing_share), day_start_s)


def steady_curve(
    power_w: float, *, power_factor: float = 0.9, pattern: Swing = FLAT, day_start_s: float = 0.0
) -> LoadCurve:
    """The same mean power all day, with a swing where one is given."""
    return LoadCurve((Quarter(power_w, power_factor),) * QUARTERS, pattern, day_start_s)


class Mains:
    """Voltage and frequency at one customer: 220 to 230 V with slow and quick fluctuation.

    Stays within 220 V ± 10 % and 50 Hz ± 0.1; shared formulas, phases of its own.
    """

    __slots__ = ("_nominal_v", "_phase")

    def __init__(self, random: Random) -> None:
        self._nominal_v = between(random, 220.0, 230.0)
        self._phase = between(random, 0.0, 2 * math.pi)

    def voltage_v(self, t_s: float) -> float:
        """Voltage between L1 and neutral, in V."""
        slow = 0.025 * math.sin(t_s / 860.0 + self._phase)
        quick = 0.008 * math.sin(t_s / 1.16 + 3 * self._phase)
        return self._nominal_v * (1.0 + slow + quick)

    def frequency_hz(self, t_s: float) -> float:
        """Mains frequency, in Hz."""
        return 50.0 + 0.04 * math.sin(t_s / 31.0 + self._phase)
