"""Wishes about money (recharges, accounts, tariffs, debts, shifts, vouchers); see `requests.py`."""

from dataclasses import dataclass
from typing import ClassVar

from gateway.core.roles import Role


@dataclass(frozen=True, slots=True)
class Recharge:
    """Credit an account with money that was taken in."""

    TYPE: ClassVar[str] = "recharge"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    account_id: str
    amount_nano: int
    provider: str = "counter"
    payment_reference: str = ""


@dataclass(frozen=True, slots=True)
class ReverseTransaction:
    """Undo one recharge by a linked reversal; at most once."""

    TYPE: ClassVar[str] = "reverse_transaction"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    transaction_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Open an account on a service point under a published tariff. `terms` is their JSON text."""

    TYPE: ClassVar[str] = "open_account"
    LATER: ClassVar[frozenset[str]] = frozenset({"terms"})
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    account_id: str
    service_point_id: str
    tariff_id: str
    name: str = ""
    opening_balance_nano: int = 0
    disablement_threshold_nano: int = 0
    terms: str = ""


@dataclass(frozen=True, slots=True)
class PublishTariff:
    """Publish a new immutable version of a tariff. `document` is its JSON text.

    `replay` is the JSON text of what north counted for whoever asks: what accounts would have paid
    under it lately. It is shown to a second person and decides nothing.
    """

    TYPE: ClassVar[str] = "publish_tariff"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    LATER: ClassVar[frozenset[str]] = frozenset({"replay"})
    document: str
    replay: str = ""


@dataclass(frozen=True, slots=True)
class IssueVoucher:
    """Sell a voucher for a service point; its 20 digits are the answer."""

    TYPE: ClassVar[str] = "issue_voucher"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    service_point_id: str
    amount_nano: int
    provider: str = "counter"
    payment_reference: str = ""


@dataclass(frozen=True, slots=True)
class RedeemVoucher:
    """Credit a service point's account with a voucher. `token`: its 20 digits."""

    TYPE: ClassVar[str] = "redeem_voucher"
    ROLES: ClassVar[frozenset[Role]] = frozenset(
        {Role.TENANT, Role.OPERATOR, Role.MANAGER, Role.TECHNICIAN}
    )
    service_point_id: str
    token: str


@dataclass(frozen=True, slots=True)
class CancelVoucher:
    """Take back a voucher that was sold and not redeemed: its money leaves by its provider."""

    TYPE: ClassVar[str] = "cancel_voucher"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    service_point_id: str
    counter: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnlockVouchers:
    """End the lock after wrong vouchers, of a service point, of an address, or of both."""

    TYPE: ClassVar[str] = "unlock_vouchers"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    reason: str
    point_id: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class ConfigureAccount:
    """Agree other terms with a customer. `terms` is their JSON text."""

    TYPE: ClassVar[str] = "configure_account"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    account_id: str
    terms: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class AddPoint:
    """Let an account pay for another service point too."""

    TYPE: ClassVar[str] = "add_point"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    account_id: str
    service_point_id: str
    tariff_id: str


@dataclass(frozen=True, slots=True)
class RemovePoint:
    """Let an account no longer pay for one of its service points."""

    TYPE: ClassVar[str] = "remove_point"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    service_point_id: str


@dataclass(frozen=True, slots=True)
class ChangeTariff:
    """Charge a service point by another tariff from now on."""

    TYPE: ClassVar[str] = "change_tariff"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    service_point_id: str
    tariff_id: str


@dataclass(frozen=True, slots=True)
class CloseAccount:
    """Move-out. `refund_provider` pays out the credit that is left."""

    TYPE: ClassVar[str] = "close_account"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    account_id: str
    reason: str
    refund_provider: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move credit from one account to another."""

    TYPE: ClassVar[str] = "transfer"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    from_account_id: str
    to_account_id: str
    amount_nano: int
    reason: str


@dataclass(frozen=True, slots=True)
class InvokeEmergency:
    """Take up emergency credit."""

    TYPE: ClassVar[str] = "invoke_emergency"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TENANT, Role.OPERATOR, Role.MANAGER})
    account_id: str


@dataclass(frozen=True, slots=True)
class AddDebt:
    """Agree on a debt: `kind` payment (a share of every recharge) or time (an amount a day).

    `weekly_cap_nano` 0 means no cap.
    """

    TYPE: ClassVar[str] = "add_debt"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    account_id: str
    debt_id: str
    kind: str
    amount_nano: int
    reason: str
    share_ppm: int = 0
    daily_nano: int = 0
    weekly_cap_nano: int = 0


@dataclass(frozen=True, slots=True)
class WriteOff:
    """Give up what is owed: a debt by its name, `accumulated`, or a `wallet` below zero."""

    TYPE: ClassVar[str] = "write_off"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    account_id: str
    debt_id: str
    amount_nano: int
    reason: str


@dataclass(frozen=True, slots=True)
class ServeNotice:
    """A customer in credit mode was told in writing what is overdue."""

    TYPE: ClassVar[str] = "serve_notice"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    account_id: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class OpenShift:
    """Begin to take money at a drawer; `float_nano` is the change in it."""

    TYPE: ClassVar[str] = "open_shift"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    drawer: str
    float_nano: int = 0


@dataclass(frozen=True, slots=True)
class CloseShift:
    """Count a drawer and end its shift: `counted_nano` by provider, one for each of `providers`.

    A shift is named by its number: a late repeat can never close the next one at that drawer.
    """

    TYPE: ClassVar[str] = "close_shift"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    shift_number: int
    providers: tuple[str, ...]
    counted_nano: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class DecideTariff:
    """The second person's word on a tariff whose prices rise much."""

    TYPE: ClassVar[str] = "decide_tariff"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    draft: int
    accept: bool
    reason: str = ""
