"""One way for every movement of a customer's credit: seen beforehand, committed, then followed."""

from collections.abc import Callable, Sequence

from gateway.app.control.desk import Desk
from gateway.core.account import Account
from gateway.core.charges import recharge_tax_entries
from gateway.core.ledger import Entry, Transaction, TransactionKind
from gateway.core.requests import Request
from gateway.core.tariff import Tariff
from gateway.store.db import Connection
from gateway.store.state import save_account_states


async def commit_credit(
    desk: Desk,
    request: Request,
    transaction: Transaction,
    accounts: Sequence[Account],
    effect: Callable[[Connection], dict[str, object]],
) -> None:
    """Commit a transaction of these accounts with its outcome, then let credit and supply follow.

    `effect` appends the transaction. What was used so far must have been posted, in a commit of its
    own: the transaction may still be refused, consumption may not. Nothing else is posted to the
    accounts meanwhile, so that what the transaction was computed from is still true. Raises what
    `effect` refuses.
    """
    day = desk.local_day()
    after = [(account, account.copy()) for account in accounts]
    for account, copy in after:
        copy.received(transaction, day, account.running_nano)
    states = {copy.account_id: copy.snapshot() for _, copy in after}

    def operate(connection: Connection) -> dict[str, object]:
        result = effect(connection)
        save_account_states(connection, states)
        return result

    with desk.holding(*accounts):
        await desk.commit(request, operate)
        for account, copy in after:
            account.take_over(copy)
    if transaction.kind is TransactionKind.RECHARGE:
        for account in accounts:
            _charge_waiting_fee(desk, account)
    for account in accounts:
        await desk.settle_supply(account)


def credited_entries(desk: Desk, account: Account, amount_nano: int) -> tuple[Entry, ...]:
    """Where money for an account goes now: taxes on recharges that it contains, then debts and the
    wallet in the order of domain.md section 5."""
    taxes = recharge_tax_entries(_versions(desk, account), amount_nano, desk.books.label())
    net_nano = amount_nano - sum(entry.amount_nano for entry in taxes)
    return (*taxes, *account.credit.split(net_nano, desk.local_day()))


def _charge_waiting_fee(desk: Desk, account: Account) -> None:
    """A fee that waits for the first recharge of a period is due now, and posted; supply follows
    what it leaves."""
    label = desk.books.label()
    indices = desk.indices_of(account.account_id)
    is_charged = False
    for index in indices:
        pricer = desk.engine.points[index].pricer
        is_charged |= pricer is not None and pricer.recharged(label)
    account.recharged_utc_ms = None
    if is_charged:
        desk.books.post(indices)


def _versions(desk: Desk, account: Account) -> Sequence[Tariff]:
    """The tariff of an account's first point."""
    for index in desk.indices_of(account.account_id):
        return desk.shelf.versions(desk.engine.points[index].tariff_id)
    return ()
