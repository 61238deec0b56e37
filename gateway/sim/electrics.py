"""From voltage and load to the measured values of a three-phase meter."""

import math

Phases = tuple[float, float, float]

PHASE_VOLTAGE = (1.0, 0.997, 1.004)  # a little unbalance, as on any street
THD_VOLTAGE = (2.1, 1.9, 2.3)
THD_CURRENT = (11.0, 12.5, 10.2)
NONE: Phases = (0.0, 0.0, 0.0)


def measure(
    *, voltage_v: float, power_w: float, power_factor: float, shares: Phases, frequency_hz: float
) -> tuple[float, ...]:
    """The 37 values of registers 1 to 73 in their order (manual p113-118, PAC3220 notes 1).

    `shares` is how the power splits over the phases, (1, 0, 0) for a single-phase connection whose
    other inputs are left open. Without current the power factor reads 1.
    """
    single = shares[1] == 0 and shares[2] == 0
    volts = (
        (voltage_v, 0.0, 0.0)
        if single
        else (voltage_v, voltage_v * PHASE_VOLTAGE[1], voltage_v * PHASE_VOLTAGE[2])
    )
    line_volts = NONE if single else _line_voltages(volts)
    flows = power_w > 0
    factor = power_factor if flows else 1.0
    tangent = math.sqrt(1.0 - factor * factor) / factor
    watts = (power_w * shares[0], power_w * shares[1], power_w * shares[2])
    apparent = (watts[0] / factor, watts[1] / factor, watts[2] / factor)
    amps = _currents(apparent, volts)
    reactive = (watts[0] * tangent, watts[1] * tangent, watts[2] * tangent)
    count = 1 if single else 3
    mean_v, mean_a = sum(volts) / count, sum(amps) / count
    alive = voltage_v > 0
    return (
        *volts,
        *line_volts,
        *amps,
        *apparent,
        *watts,
        *reactive,
        factor,
        factor,
        factor,
        *(THD_VOLTAGE if alive else NONE),
        *(THD_CURRENT if flows else NONE),
        frequency_hz if alive else 0.0,
        mean_v,
        sum(line_volts) / 3,
        mean_a,
        power_w / factor,
        power_w,
        power_w * tangent,
        factor,
        0.0 if single else _unbalance_percent(volts, mean_v),
        0.0 if single else _unbalance_percent(amps, mean_a),
    )


def miswired(
    values: tuple[float, ...], gains: Phases, places: tuple[int, int, int]
) -> tuple[float, ...]:
    """The values of `measure` with wrong current transformers.

    Phase i sees the current of phase `places[i]` times `gains[i]`; negative: the wrong way round.
    """
    volts, amps = values[0:3], values[6:9]
    angles = [math.atan2(values[15 + phase], values[12 + phase]) for phase in range(3)]
    seen = [abs(gain) * amps[place] for gain, place in zip(gains, places, strict=True)]
    apparent = [volt * amp for volt, amp in zip(volts, seen, strict=True)]
    turns = [
        angles[place] + math.tau / 3 * (place - phase) + (math.pi if gains[phase] < 0 else 0.0)
        for phase, place in enumerate(places)
    ]
    watts = [volt_amps * math.cos(turn) for volt_amps, turn in zip(apparent, turns, strict=True)]
    reactive = [volt_amps * math.sin(turn) for volt_amps, turn in zip(apparent, turns, strict=True)]
    factors = [abs(math.cos(turn)) for turn in turns]
    total_va, total_w = sum(apparent), sum(watts)
    count = 1 if volts[1] == volts[2] == 0 else 3
    return (
        *values[0:6],
        *(*seen, *apparent, *watts, *reactive, *factors),
        *values[21:30],
        sum(seen) / count,
        total_va,
        total_w,
        sum(reactive),
        abs(total_w) / total_va if total_va else 1.0,
        values[35],
        0.0 if count == 1 else _unbalance_percent((seen[0], seen[1], seen[2]), sum(seen) / 3),
    )


def neutral_current_a(values: tuple[float, ...]) -> float:
    """Current in the neutral of a star connection, from measured values (phases 120° apart)."""
    first, second, third = values[6], values[7], values[8]
    squares = first * first + second * second + third * third
    return math.sqrt(max(0.0, squares - first * second - second * third - third * first))


def _line_voltages(volts: Phases) -> Phases:
    """Voltages between phases 120° apart."""
    first, second, third = volts
    return (
        math.sqrt(first * first + second * second + first * second),
        math.sqrt(second * second + third * third + second * third),
        math.sqrt(third * third + first * first + third * first),
    )


def _currents(apparent: Phases, volts: Phases) -> Phases:
    """Current per phase; none where no voltage drives it."""
    return (
        apparent[0] / volts[0] if volts[0] else 0.0,
        apparent[1] / volts[1] if volts[1] else 0.0,
        apparent[2] / volts[2] if volts[2] else 0.0,
    )


def _unbalance_percent(values: Phases, mean: float) -> float:
    """The largest deviation from the mean, in percent of it."""
    if mean <= 0:
        return 0.0
    return 100.0 * max(abs(value - mean) for value in values) / mean


class Extremes:
    """Maxima and minima of the measured values, over the refreshes that somebody looked at.

    A real meter looks at every refresh; a simulated one sleeps between reads.
    """

    __slots__ = ("maxima", "minima")

    def __init__(self) -> None:
        self.maxima: tuple[float, ...] = ()
        self.minima: tuple[float, ...] = ()

    def note(self, values: tuple[float, ...]) -> None:
        """Take one set of values into account; always the same number of them."""
        self.maxima = tuple(map(max, self.maxima, values)) if self.maxima else values
        self.minima = tuple(map(min, self.minima, values)) if self.minima else values

    def reset_maxima(self) -> None:
        """Begin anew with the next values (60002)."""
        self.maxima = ()

    def reset_minima(self) -> None:
        """Begin anew with the next values (60003)."""
        self.minima = ()
