"""When to look at a meter next, so that the end of its credit is not missed.

It schedules polls and nothing else: a cut waits for a register that shows zero.
"""

import math
from typing import Final

# The gateway asks no meter more often than this.
LOOK_MIN_S: Final = 0.05
S_PER_H: Final = 3600.0


def look_again_s(
    left_wh: float,
    part_wh: float,
    *,
    p_max_w: int,
    power_w: float | None,
    refresh_s: float,
    period_s: float,
) -> float | None:
    """Seconds from a reading to the next look; None when the regular poll comes soon enough.

    `left_wh` are the Wh that the credit still buys, counted from the whole Wh of the register;
    `part_wh` is what the register showed beyond those (0: nothing, or the meter shows whole Wh
    only). The rest may flow at `p_max_w`, never assumed less than the breaker allows: the power of
    now, `power_w`, only decides whether to look more often than the meter renews its registers
    (`refresh_s`), which tells nothing new until it does.
    """
    if part_wh > 0.0 and math.isfinite(left_wh):
        # Credit ends with the whole Wh that reaches it: what of that one is used, is used.
        left_wh = math.ceil(left_wh) - part_wh
    left_s = left_wh * S_PER_H / p_max_w
    if part_wh <= 0.0:
        if left_wh <= 1.0:
            # How much of the last Wh is used cannot be seen: look at every renewal.
            left_s = min(left_s, refresh_s)
        left_s = max(LOOK_MIN_S, left_s)
    elif left_s < refresh_s:
        is_near = power_w is not None and left_wh * S_PER_H < power_w * refresh_s
        left_s = LOOK_MIN_S if is_near else refresh_s
    return left_s if left_s < period_s else None
