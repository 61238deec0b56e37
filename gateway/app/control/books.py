"""What control writes into `ledger.db`: posting rounds, point states, commands, sweeps.

The state of a point is taken in the same instant as its postings and committed with them, so a
crash at any moment leaves a file from which nothing is charged twice or lost.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from gateway.app.control.engine import CommandTrack
from gateway.app.control.tallies import Tallies
from gateway.core.account import Account
from gateway.core.clock import Clock
from gateway.core.clocktrust import stepped
from gateway.core.errors import RefusedError
from gateway.core.ledger import SettlementLine, Transaction, settlement_of
from gateway.core.point import Point
from gateway.store.commands import (
    CommandState,
    SwitchAction,
    SwitchCommand,
    put_switch_command,
)
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction
from gateway.store.state import save_account_states, save_point_states, save_register_state
from gateway.store.writer import StoreWriter

T = TypeVar("T")
Operation = Callable[[Connection], T]


class Books:
    """The ledger as control sees it. `points` are indexed as the engine's.

    `boot_id` names the machine's boot: monotonic times of another boot mean nothing.
    """

    def __init__(
        self,
        writer: StoreWriter,
        points: Sequence[Point],
        clock: Clock,
        *,
        boot_id: str,
        tallies: Tallies | None = None,
    ) -> None:
        self._writer = writer
        self._points = tuple(points)
        self._clock = clock
        self._boot_id = boot_id
        self._tallies = tallies or Tallies()
        self._sweep_number = 0
        # Points whose posting waits for a request about their account.
        self.postponed: set[int] = set()
        self.label_utc_ms = 0
        # Wall less monotonic milliseconds of the trusted clock; None while it is not trusted.
        self.clock_offset_ms: int | None = None
        self.failure: BaseException | None = None

    def label(self) -> int:
        """The wall label of the next record: never back, and not on with a doubtful clock."""
        utc_ms = self._clock.utc_ms()
        offset_ms = utc_ms - self._clock.mono_ns() // 1_000_000
        known = self.clock_offset_ms is not None and not stepped(offset_ms, self.clock_offset_ms)
        if known:
            self.label_utc_ms = max(self.label_utc_ms, utc_ms)
        elif not self.label_utc_ms:
            # Nothing was ever recorded: a doubtful time is shown, and not held on to.
            return utc_ms
        return self.label_utc_ms

    def commit(self, operation: Operation[T], *, may_refuse: bool = False) -> "asyncio.Future[T]":
        """Queue an operation; the future has its result once it is durable.

        A failure is kept in `failure`: memory is ahead of the file then, and only a fresh start
        from the file is right again. With `may_refuse` a RefusedError is none: the operation has
        undone itself and nothing in memory hangs on it.
        """
        begun_ns = self._clock.mono_ns()
        future = asyncio.wrap_future(self._writer.submit(operation))

        def done(finished: "asyncio.Future[T]") -> None:
            self._tallies.commit_time.observe((self._clock.mono_ns() - begun_ns) / 1e9)
            error = None if finished.cancelled() else finished.exception()
            if error is not None and not (may_refuse and isinstance(error, RefusedError)):
                self.failure = self.failure or error

        future.add_done_callback(done)
        return future

    def post(self, indices: Iterable[int]) -> "asyncio.Future[None]":
        """Post what these points used since their last posting, with their states."""
        return self.commit(self.posting(indices))

    def keep(self, index: int) -> "asyncio.Future[None]":
        """Keep a point's supply state and the state of its account."""
        states, accounts = self.states([index]), self.account_states([index])

        def operate(connection: Connection) -> None:
            save_point_states(connection, states)
            save_account_states(connection, accounts)

        return self.commit(operate)

    def command(self, track: CommandTrack) -> "asyncio.Future[None]":
        """Keep a switch command as it stands, with the supply state of its point."""
        point = self._points[track.point_index]
        record = SwitchCommand(
            command_id=track.command_id,
            service_point_id=point.terms.service_point_id,
            meter_id=point.terms.meter_id,
            action=SwitchAction.CLOSE if track.close else SwitchAction.OPEN,
            reason=",".join(track.reasons),
            issued_utc_ms=track.issued_utc_ms,
            request_key=track.request_key,
            state=CommandState(track.state),
            attempts=track.attempts,
            finished_utc_ms=track.finished_utc_ms,
            witnesses=track.witnesses,
            detail=dict(track.detail or {}),
        )
        states = self.states([track.point_index])

        def operate(connection: Connection) -> None:
            put_switch_command(connection, record)
            save_point_states(connection, states)

        return self.commit(operate)

    def sweep(self, due: Iterable[int], site: Mapping[str, object]) -> "asyncio.Future[None]":
        """Post what is due and keep the running state of every point, in one commit.

        `site` are site-wide facts that must survive (breaker).
        """
        return self.commit(self.sweeping(due, site))

    def sweeping(self, due: Iterable[int], site: Mapping[str, object]) -> Operation[None]:
        """`sweep` as an operation, under the same condition as `posting`."""
        waiting, self.postponed = self.postponed, set()
        posting = self.posting(waiting.union(due))
        self._sweep_number += 1
        number, utc_ms = self._sweep_number, self.label()
        body = {
            "boot_id": self._boot_id,
            "mono_ns": self._clock.mono_ns(),
            # The clock as it stands, not the label: it tells how long the machine was off.
            "wall_ms": self._clock.utc_ms(),
            "label_ms": self.label_utc_ms,
            "site": dict(site),
            "points": {
                point.terms.service_point_id: point.running_state()
                for point in self._points
                if point.last is not None or point.last_sequence
            },
        }

        def operate(connection: Connection) -> None:
            posting(connection)
            save_register_state(connection, utc_ms=utc_ms, sequence=number, body=body)

        return operate

    def posting(self, indices: Iterable[int]) -> Operation[None]:
        """What these points used since their last posting, with their states, as an operation.

        Their charges leave the wallets in memory now: the operation must be committed.
        """
        chosen = sorted(indices)
        transactions = self._take(chosen)
        states, accounts = self.states(chosen), self.account_states(chosen)

        def operate(connection: Connection) -> None:
            for transaction in transactions:
                append_transaction(connection, transaction)
            if states:
                save_point_states(connection, states)
            if accounts:
                save_account_states(connection, accounts)

        return operate

    def _take(self, chosen: Sequence[int]) -> list[Transaction]:
        """Consumption of these points as one transaction, then what their accounts post."""
        lines: list[SettlementLine] = []
        accounts: dict[str, Account] = {}
        utc_ms = self.label()
        for index in chosen:
            point = self._points[index]
            account = point.account
            if account is not None and account.held:
                # A request about this account is being committed: its posting comes after it.
                self.postponed.add(index)
                continue
            lines += point.take_postings()
            if account is not None:
                accounts[account.account_id] = account
        settlement = settlement_of(lines, utc_ms=utc_ms)
        transactions = [] if settlement is None else [settlement]
        for account in accounts.values():
            transactions += account.take_postings(utc_ms)
        return transactions

    def account_states(self, indices: Iterable[int]) -> dict[str, dict[str, object]]:
        """The states of the accounts of these points as `save_account_states` keeps them.

        Not of one about which a request is under way: that commits the state it leads to.
        """
        accounts = (self._points[index].account for index in indices)
        return {
            account.account_id: account.snapshot()
            for account in accounts
            if account is not None and not account.held
        }

    def states(self, indices: Iterable[int]) -> dict[str, dict[str, object]]:
        """The states of these points as `save_point_states` keeps them."""
        now_ns, utc_ms = self._clock.mono_ns(), self._clock.utc_ms()
        when = {"boot_id": self._boot_id, "mono_ns": now_ns, "utc_ms": utc_ms}
        chosen = [self._points[index] for index in indices]
        return {
            point.terms.service_point_id: {**point.posted_state(now_ns, utc_ms), **when}
            for point in chosen
        }
