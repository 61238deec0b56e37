"""Vouchers as rules on the ledger's own rows: sell, judge, redeem, take back, lock.

Every method works on a connection inside somebody's transaction and commits nothing, so that a
check and its effect are one commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.app.config import Config
from gateway.app.control.till import Till
from gateway.app.paths import paths_of
from gateway.app.voucher_key import VoucherKeys, load_voucher_keys
from gateway.core.address import site_of
from gateway.core.errors import RefusedError
from gateway.core.ledger import (
    Entry,
    Transaction,
    reversal_of,
    voucher_redemption_of,
    voucher_sale_of,
    wallet,
)
from gateway.core.money import Currency
from gateway.core.requests import CancelVoucher, IssueVoucher, RedeemVoucher, Request
from gateway.core.voucher import (
    Claim,
    LockPolicy,
    Voucher,
    claim_of,
    encode,
    is_genuine,
    locked_until,
    parse_token,
    point_key,
    rebuild,
    tries_left,
    unit_nano_of,
    units_max,
    units_of,
)
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction, read_balance, read_transaction
from gateway.store.recovery import last_recovery, standing_recovery
from gateway.store.vouchers import (
    Cancellation,
    Redemption,
    SoldVoucher,
    VoucherState,
    WrongTry,
    last_sale_recovery,
    last_tries,
    next_counter,
    next_voucher_number,
    put_cancellation,
    put_redemption,
    put_try,
    put_unlock,
    put_voucher,
    read_redemption,
    read_voucher,
    subject_of_address,
    subject_of_point,
    vouchers_ending_in,
)

# The first sale at a point after a RECOVERY leaves out so many counters: what was sold in a ledger
# that is lost has its numbers there, and two slips must never show the same digits.
RECOVERY_SKIP: Final = 256
MINUTE_MS: Final = 60_000
MS_PER_S: Final = 1_000


class WrongVoucherError(RefusedError):
    """20 digits that are no voucher of this point: counted as a try."""

    def __init__(self) -> None:
        super().__init__(
            "VOUCHER_WRONG",
            "this is no voucher of this service point and its account: compare the digits",
            "token",
        )


@dataclass(frozen=True, slots=True)
class VoucherTerms:
    """What the site says of vouchers: keys, unit in nano-units, when wrong tries lock."""

    keys: VoucherKeys
    unit_nano: int
    policy: LockPolicy = LockPolicy()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose voucher it has to be: a service point and the account open there."""

    service_point_id: str
    account_id: str


@dataclass(frozen=True, slots=True)
class Credit:
    """A voucher that may be redeemed: its counter, what it is worth, and the sale if it is ours."""

    counter: int
    amount_nano: int
    sold: SoldVoucher | None


class VoucherBook:
    """The rules of vouchers at one site."""

    def __init__(self, terms: VoucherTerms, currency: Currency, till: Till) -> None:
        self._till = till
        self._terms = terms
        self._currency = currency

    # -- selling ---------------------------------------------------------------------------

    def units(self, amount_nano: int) -> int:
        """An amount in units. Raises RefusedError AMOUNT_RANGE, VOUCHER_UNIT."""
        return units_of(amount_nano, self._terms.unit_nano, self._currency)

    def issue(
        self,
        connection: Connection,
        body: IssueVoucher,
        request: Request,
        holder: Holder,
        utc_ms: int,
    ) -> dict[str, object]:
        """Sell a voucher: money into `vouchers`, the next counter, its digits in the result.

        Raises RefusedError AMOUNT_RANGE, VOUCHER_UNIT.
        """
        units, point = self.units(body.amount_nano), holder.service_point_id
        counter, recovery = self._next(connection, point, request)
        voucher = Voucher(counter, units, body.amount_nano // self._currency.minor_nano)
        keys = self._terms.keys
        token = encode(point_key(keys.current, point), holder.account_id, voucher)
        sale = voucher_sale_of(
            holder.account_id,
            body.amount_nano,
            body.provider,
            utc_ms=utc_ms,
            request_key=request.key,
            memo=(
                ("reference", body.payment_reference),
                ("service_point", point),
                ("voucher", str(counter)),
            ),
        )
        seq = self._till.append(connection, request, sale)
        sold = SoldVoucher(
            number=next_voucher_number(connection),
            service_point_id=point,
            counter=counter,
            account_id=holder.account_id,
            units=units,
            amount_nano=body.amount_nano,
            utc_ms=utc_ms,
            actor=request.actor,
            provider=body.provider,
            payment_reference=body.payment_reference,
            request_key=request.key,
            seq=seq,
            key_mark=keys.mark,
            recovery=recovery,
        )
        put_voucher(connection, sold)
        return {
            "service_point_id": point,
            "account_id": holder.account_id,
            "counter": counter,
            "amount_nano": body.amount_nano,
            "token": token,
            "transaction_seq": seq,
            "issued_utc_ms": utc_ms,
        }

    def _next(self, connection: Connection, point: str, request: Request) -> tuple[int, int]:
        """The next counter of a point, and the RECOVERY after which it counts as sold.

        A sale that is replayed after a restore gets the counter and so the digits that it had.
        """
        counter, before = (
            next_counter(connection, point),
            last_sale_recovery(connection, point),
        )
        last = last_recovery(connection)
        if last is None or last.number <= before or _is_replayed(connection, request):
            return counter, before
        return counter + RECOVERY_SKIP, last.number

    # -- redeeming -------------------------------------------------------------------------

    def check_unlocked(self, connection: Connection, point: str, address: str, utc_ms: int) -> None:
        """Raise RefusedError VOUCHER_LOCKED while the point or the address is locked."""
        policy = self._terms.policy
        for subject in (subject_of_point(point), subject_of_address(site_of(address))):
            until_ms = locked_until(last_tries(connection, subject, policy.tries), policy)
            if until_ms is not None and utc_ms < until_ms:
                kind, _, name = subject.partition(":")
                what = "service point" if kind == "point" else "address"
                raise RefusedError(
                    "VOUCHER_LOCKED",
                    f"too many wrong vouchers: {what} {name} is locked for another "
                    f"{_minutes(until_ms - utc_ms)}; a manager may unlock it",
                )

    def judge(
        self,
        connection: Connection,
        body: RedeemVoucher,
        request: Request,
        holder: Holder,
        utc_ms: int,
    ) -> Credit:
        """What a token is worth now.

        Raises WrongVoucherError for digits that nobody sold to this point, and RefusedError for
        the rest: VOUCHER_FORMAT, VOUCHER_LOCKED, VOUCHER_ACCOUNT, VOUCHER_KEY, VOUCHER_TAKEN,
        VOUCHER_REDEEMED, VOUCHER_CANCELLED, VOUCHER_RECOVERY.
        """
        token = parse_token(body.token)
        if not _is_replayed(connection, request):
            self.check_unlocked(connection, holder.service_point_id, request.source, utc_ms)
        credit = self._find(connection, token, holder)
        self._check_open(connection, credit, holder.service_point_id)
        self._check_recovery(connection, credit, request)
        return credit

    def redeem(
        self,
        connection: Connection,
        body: RedeemVoucher,
        request: Request,
        holder: Holder,
        judged: tuple[Credit, Transaction],
    ) -> dict[str, object]:
        """Judge again and append what was made of it, in one transaction; raises as `judge`."""
        expected, transaction = judged
        utc_ms = transaction.utc_ms
        credit = self.judge(connection, body, request, holder, utc_ms)
        if credit != expected:
            raise ValueError(f"voucher {expected.counter} changed while it was redeemed")
        point = holder.service_point_id
        # No money is taken now: it was when the voucher was sold.
        seq = append_transaction(connection, transaction)
        put_redemption(
            connection,
            Redemption(
                service_point_id=point,
                counter=credit.counter,
                account_id=holder.account_id,
                amount_nano=credit.amount_nano,
                sold_here=credit.sold is not None,
                utc_ms=utc_ms,
                actor=request.actor,
                source=request.source,
                request_key=request.key,
                seq=seq,
            ),
        )
        return {
            "account_id": holder.account_id,
            "service_point_id": point,
            "counter": credit.counter,
            "transaction_seq": seq,
            "amount_nano": credit.amount_nano,
            "balance_nano": read_balance(connection, wallet(holder.account_id)),
        }

    def _find(self, connection: Connection, token: str, holder: Holder) -> Credit:
        """The voucher that these digits are: one on record, else one of another machine."""
        claim = claim_of(token)
        if claim is None:
            raise WrongVoucherError
        point, keyless = holder.service_point_id, set[int]()
        for sold in vouchers_ending_in(connection, point, claim.counter_low):
            key = self._terms.keys.of_mark(sold.key_mark)
            amount_minor = sold.amount_nano // self._currency.minor_nano
            voucher = Voucher(sold.counter, sold.units, amount_minor)
            if key is None:
                keyless.add(sold.counter)
            elif is_genuine(point_key(key, point), sold.account_id, voucher, token):
                if sold.account_id != holder.account_id:
                    raise RefusedError(
                        "VOUCHER_ACCOUNT",
                        "this voucher was sold to another account of this point: whoever bought "
                        "it takes it back to the cashier",
                        "token",
                    )
                return Credit(sold.counter, sold.amount_nano, sold)
        return self._find_foreign(connection, token, claim, holder, keyless)

    def _find_foreign(
        self, connection: Connection, token: str, claim: Claim, holder: Holder, keyless: set[int]
    ) -> Credit:
        """A voucher that another machine with the key in force sold.

        `keyless` are counters sold under a key that is not here: no digits can be right for them,
        so that asking for them is no guess.
        """
        point, unit_nano = holder.service_point_id, self._terms.unit_nano
        counter = rebuild(claim.counter_low, next_counter(connection, point))
        if counter is not None and claim.units <= units_max(unit_nano, self._currency):
            amount_nano = claim.units * unit_nano
            voucher = Voucher(counter, claim.units, amount_nano // self._currency.minor_nano)
            key = point_key(self._terms.keys.current, point)
            if is_genuine(key, holder.account_id, voucher, token):
                if read_voucher(connection, point, counter) is not None:
                    raise RefusedError(
                        "VOUCHER_TAKEN",
                        f"two machines sold vouchers under the number {counter} of this point: "
                        "take it back to where it was bought",
                        "token",
                    )
                return Credit(counter, amount_nano, None)
        if counter in keyless:
            raise RefusedError(
                "VOUCHER_KEY",
                "vouchers of this point were sold under a key that is not here: put the voucher "
                "key of that time back, or take them back at the cashier",
                "token",
            )
        raise WrongVoucherError

    @staticmethod
    def _check_open(connection: Connection, credit: Credit, point: str) -> None:
        if read_redemption(connection, point, credit.counter) is not None:
            raise RefusedError(
                "VOUCHER_REDEEMED",
                f"voucher {credit.counter} of this point was redeemed already",
                "token",
            )
        if credit.sold is not None and credit.sold.state is VoucherState.CANCELLED:
            raise RefusedError(
                "VOUCHER_CANCELLED",
                f"voucher {credit.counter} of this point was taken back",
                "token",
            )

    @staticmethod
    def _check_recovery(connection: Connection, credit: Credit, request: Request) -> None:
        """In RECOVERY nobody can tell whether an earlier voucher was redeemed (domain.md 6).

        What is replayed by its key was redeemed in the ledger that is lost; what was sold since
        is known.
        """
        standing = standing_recovery(connection)
        if standing is None or _is_replayed(connection, request):
            return
        if credit.sold is None or credit.sold.recovery < standing.number:
            raise RefusedError(
                "VOUCHER_RECOVERY",
                "the site is in RECOVERY: a voucher from before it waits until a manager has "
                "released it; it stays good",
                "token",
            )

    # -- wrong tries -----------------------------------------------------------------------

    def note_try(self, connection: Connection, point: str, request: Request, utc_ms: int) -> None:
        """Keep a wrong try, for the lock; those of another time that are replayed do not count."""
        if _is_replayed(connection, request):
            return
        address = site_of(request.source)
        put_try(connection, WrongTry(point, address, utc_ms, request.actor, request.key))

    def warning(self, connection: Connection, point: str, address: str, utc_ms: int) -> str:
        """What one more wrong try at this point from this address leads to, in words."""
        policy = self._terms.policy
        left = min(
            tries_left([utc_ms, *last_tries(connection, subject, policy.tries)], utc_ms, policy)
            for subject in (subject_of_point(point), subject_of_address(site_of(address)))
        )
        lock = _minutes(policy.lock_ms)
        if left == 0:
            return f"locked for {lock} now"
        tries = "wrong try" if left == 1 else "wrong tries"
        return f"{left} more {tries} within {_minutes(policy.within_ms)} lock it for {lock}"

    def unlock(
        self,
        connection: Connection,
        subjects: list[str],
        request: Request,
        reason: str,
        utc_ms: int,
    ) -> dict[str, object]:
        """Forgive wrong tries. Raises RefusedError VOUCHER_NOT_LOCKED when there were none."""
        policy = self._terms.policy
        if not any(last_tries(connection, subject, policy.tries) for subject in subjects):
            raise RefusedError("VOUCHER_NOT_LOCKED", "no wrong vouchers are held against it")
        for subject in subjects:
            put_unlock(
                connection,
                subject,
                utc_ms=utc_ms,
                actor=request.actor,
                reason=reason,
                request_key=request.key,
            )
        return {"unlocked": list(subjects)}

    # -- taking back -----------------------------------------------------------------------

    def cancel(
        self, connection: Connection, body: CancelVoucher, request: Request, utc_ms: int
    ) -> dict[str, object]:
        """Take a voucher back: its sale is reversed.

        Raises RefusedError VOUCHER_UNKNOWN, VOUCHER_REDEEMED, VOUCHER_CANCELLED.
        """
        point = body.service_point_id
        sold = read_voucher(connection, point, body.counter)
        original = None if sold is None else read_transaction(connection, sold.seq)
        if sold is None or original is None:
            raise RefusedError(
                "VOUCHER_UNKNOWN", f"no voucher {body.counter} was sold for {point}", "counter"
            )
        self._check_open(connection, Credit(sold.counter, sold.amount_nano, sold), point)
        reversal = reversal_of(original, sold.seq, utc_ms=utc_ms, request_key=request.key)
        seq = self._till.append(connection, request, reversal)
        put_cancellation(
            connection,
            Cancellation(
                service_point_id=point,
                counter=body.counter,
                utc_ms=utc_ms,
                actor=request.actor,
                reason=body.reason,
                request_key=request.key,
                seq=seq,
            ),
        )
        return {
            "service_point_id": point,
            "counter": body.counter,
            "amount_nano": sold.amount_nano,
            "provider": sold.provider,
            "transaction_seq": seq,
        }


def redemption_of(
    credit: Credit,
    holder: Holder,
    credited: Sequence[Entry] = (),
    *,
    utc_ms: int,
    request_key: str,
) -> Transaction:
    """What a voucher that was judged credits its holder with; `credited` says where it goes."""
    return voucher_redemption_of(
        holder.account_id,
        credit.amount_nano,
        credited,
        sold_here=credit.sold is not None,
        utc_ms=utc_ms,
        request_key=request_key,
        memo=(("service_point", holder.service_point_id), ("voucher", str(credit.counter))),
    )


def voucher_terms(config: Config, currency: Currency) -> VoucherTerms:
    """What configuration and control's directory say; makes the key where there is none.

    Raises ConfigurationError, StoreError.
    """
    section = config.vouchers
    return VoucherTerms(
        keys=load_voucher_keys(paths_of(config).control_dir),
        unit_nano=unit_nano_of(section.voucher_unit, currency),
        policy=LockPolicy(
            tries=section.tries,
            within_ms=section.tries_within_s * MS_PER_S,
            lock_ms=section.lock_s * MS_PER_S,
        ),
    )


def _is_replayed(connection: Connection, request: Request) -> bool:
    """Whether a request is from before the last RECOVERY: executed once in a ledger that is lost.

    It was judged then, so no lock and no RECOVERY stands in its way now.
    """
    last = last_recovery(connection)
    return last is not None and request.created_utc_ms < last.since_utc_ms


def _minutes(span_ms: int) -> str:
    """A time that people wait, never shorter than it is."""
    if span_ms < MINUTE_MS:
        return f"{max(1, -(-span_ms // 1000))} s"
    return f"{-(-span_ms // MINUTE_MS)} min"
