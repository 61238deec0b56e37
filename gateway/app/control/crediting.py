"""One way for every movement of a customer's credit: seen beforehand, committed, then followed."""

from collections.abc import Callable, Sequence

from gateway.app.control.desk import Desk
from gateway.core.account import Account
from gateway.core.ledger import Transaction
from gateway.core.requests import Request
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
    for account in accounts:
        await desk.settle_supply(account)
