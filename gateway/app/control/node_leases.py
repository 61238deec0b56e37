"""What a node's lease should be: from its point's credit, supply, tariff and limits."""

from typing import TYPE_CHECKING

from gateway.app.control.shelf import TariffShelf
from gateway.core.account import Account
from gateway.core.credit import PaymentMode
from gateway.core.lease import (
    LEASE_S,
    NO_LIMITS,
    UNLIMITED_WH,
    PowerLimits,
    Wanted,
    cutoff_wh,
    in_force,
    limits_of,
)
from gateway.core.point import Point
from gateway.core.switching import Reason

if TYPE_CHECKING:
    from gateway.app.control.engine import Engine


def wanted_of(
    point: Point, engine: "Engine", shelf: TariffShelf, utc_ms: int, *, limits: bool
) -> Wanted | None:
    """What a point's node should hold now; None while that cannot be told.

    `limits` is whether the node keeps to power limits.
    """
    registers = point.guard.registers_wh
    if registers is None or point.guard.held:
        return None
    account = point.account
    if account is None:
        return Wanted(registers[0], UNLIMITED_WH)
    power = _limits(point, account, shelf, utc_ms) if limits else NO_LIMITS
    if engine.gate.recovery is not None or engine.breaker.halted or _is_never_cut(point, account):
        return Wanted(registers[0], UNLIMITED_WH, power)
    available_nano = account.available_nano
    if not account.credit.is_invoked:
        available_nano += account.credit.terms.emergency_limit_nano
    supply = point.supply
    # Only once it was seen to be off: until then breaker and clock may still hold the cut back.
    is_cut = Reason.CREDIT in supply.reasons and supply.output_closed is False
    cutoff = _lasts_until(point, shelf, available_nano, utc_ms)
    return Wanted(registers[0], cutoff, power, is_cut=is_cut)


def _is_never_cut(point: Point, account: Account) -> bool:
    terms, supply = account.credit.terms, point.supply
    return (
        not supply.enforced
        or supply.policy.critical
        or Reason.CREDIT in supply.blocks.suspended
        or bool(supply.blocks.held_back)
        # A calendar may keep supply on at any time: the gateway alone cuts there.
        or terms.calendar is not None
        or terms.payment_mode is PaymentMode.CREDIT
    )


def _limits(point: Point, account: Account, shelf: TariffShelf, utc_ms: int) -> PowerLimits:
    """The limits of the point, and where emergency credit will bear what is used."""
    supply, credit = point.supply, account.credit
    if not supply.enforced:
        return NO_LIMITS
    source, limits = point.terms.sources[0], supply.limiter.limits
    begins_wh = UNLIMITED_WH
    if limits.emergency_w is not None and credit.terms.payment_mode is PaymentMode.PREPAYMENT:
        running_nano = account.running_nano
        if credit.emergency_in_use(running_nano):
            begins_wh = max(1, (point.guard.registers_wh or (0,))[0])
        elif credit.terms.emergency_limit_nano:
            own_nano = credit.wallet_nano - running_nano
            begins_wh = _lasts_until(point, shelf, own_nano, utc_ms)
    return limits_of(limits.by_source.get(source), limits.emergency_w, begins_wh)


def _lasts_until(point: Point, shelf: TariffShelf, amount_nano: int, utc_ms: int) -> int:
    """The counter up to which an amount surely lasts."""
    versions = in_force(shelf.known(point.tariff_id), point.label_utc_ms, utc_ms + LEASE_S * 1_000)
    registers = point.guard.registers_wh or (0,)
    return cutoff_wh(registers[0], amount_nano, versions, point.terms.sources[0])
