"""How much energy an amount of money buys: never more than the truth."""

import math
from typing import Final

from gateway.core.tally import Lane
from gateway.core.tariff import ENERGY, PPM, REBATE

_OPEN_WH: Final = 2**62


def remaining_wh(lane: Lane, available_nano: int) -> float:
    """Wh of a lane's source that `available_nano` buys, by its band and blocks from here on.

    Taxes on top are counted, and so are rebates as far as they are sure to grow with the energy; a
    fixed amount of rebate is not. Infinite where energy is free.
    """
    rates = lane.rates
    percent = [rule for rule in rates.rate_taxes if rule.on_energy]
    per_kwh_micro = sum(micro for micro, source in rates.kwh_taxes if source in ("", lane.source))
    if rates.rebates:
        return _with_rebates(lane, available_nano, per_kwh_micro)
    factor = PPM + sum(rule.rate_ppm for rule in percent)
    # A tax that was floored so far may add up to one nano more than its rate says.
    left = (available_nano - len(percent)) * PPM
    if left <= 0:
        return 0.0
    whole_wh = 0
    for room_wh, price_micro in lane.ahead():
        unit = price_micro * factor + per_kwh_micro * PPM
        if room_wh is None or unit * room_wh >= left:
            return _floored_ratio(whole_wh * unit + left, unit) if unit else math.inf
        left -= unit * room_wh
        whole_wh += room_wh
    return math.inf


def _with_rebates(lane: Lane, available_nano: int, per_kwh_micro: int) -> float:
    """The same where rebates lower what a Wh costs.

    With a price p a Wh and rebates that grow by m a Wh, charges less rebates grow by p - m at most
    while m <= p, and not at all while m > p: the cap on rebates only makes them grow less, until
    the charges have caught up with them.
    """
    rates, tally = lane.rates, lane.tally
    percent_ppm = 0
    limited: list[tuple[int, int]] = []
    for rule in rates.rebates:
        if rule.rate_ppm and ENERGY in rule.bases:
            percent_ppm += rule.rate_ppm
        elif rule.per_kwh_micro and rule.source in ("", lane.source):
            used_wh = sum(tally.wh[rates.span_of(rule.source)])
            used_wh += tally.earlier.used_wh(rule.source)
            limit_wh = _OPEN_WH if rule.limit_wh is None else rule.limit_wh
            if used_wh < limit_wh:
                limited.append((limit_wh - used_wh, rule.per_kwh_micro))
    taxes = [rule for rule in rates.consumption_taxes if not (rule.inclusive or rule.per_kwh_micro)]
    on_both_ppm = sum(r.rate_ppm for r in taxes if ENERGY in r.bases and REBATE in r.bases)
    on_energy_ppm = sum(r.rate_ppm for r in taxes if ENERGY in r.bases and REBATE not in r.bases)
    scale = PPM * PPM
    floors = len(taxes) + 2 * len(rates.rebates)
    left = (available_nano - floors) * scale
    if left <= 0:
        return 0.0
    whole_wh = 0
    for block_room_wh, price_micro in lane.ahead():
        room_wh = _OPEN_WH if block_room_wh is None else block_room_wh
        while room_wh:
            growth = price_micro * percent_ppm + PPM * sum(
                micro for until_wh, micro in limited if until_wh > whole_wh
            )
            net = max(0, price_micro * PPM - growth)
            unit = net * (PPM + on_both_ppm) + price_micro * PPM * on_energy_ppm
            unit += per_kwh_micro * scale
            ends = [until_wh - whole_wh for until_wh, _ in limited if until_wh > whole_wh]
            part_wh = min(room_wh, *ends) if ends else room_wh
            if unit * part_wh >= left:
                return _floored_ratio(whole_wh * unit + left, unit)
            left -= unit * part_wh
            whole_wh += part_wh
            room_wh -= part_wh
    return math.inf


def _floored_ratio(numerator: int, denominator: int) -> float:
    """The largest float not above the fraction."""
    ratio = numerator / denominator
    top, bottom = ratio.as_integer_ratio()
    return math.nextafter(ratio, 0.0) if top * denominator > numerator * bottom else ratio
