"""Everybody who carries out requests, at one desk."""

from dataclasses import dataclass
from functools import partial

import structlog

from gateway.app.config import Config
from gateway.app.control.account_requests import AccountRequests
from gateway.app.control.counter_requests import CounterRequests
from gateway.app.control.credit_requests import CreditRequests
from gateway.app.control.desk import Desk
from gateway.app.control.devices import DeviceRequests
from gateway.app.control.display import Display
from gateway.app.control.executor import Executor
from gateway.app.control.forecaster import Forecaster
from gateway.app.control.load_requests import LoadRequests
from gateway.app.control.node_requests import NodeRequests
from gateway.app.control.nodes import NodeOffice
from gateway.app.control.recovery import RecoveryWatch
from gateway.app.control.rollout_requests import RolloutRequests
from gateway.app.control.supply_requests import SupplyRequests
from gateway.app.control.sweeper import Sweeper
from gateway.app.control.tariff_requests import TariffRequests
from gateway.app.control.voucher_book import voucher_terms
from gateway.app.control.voucher_requests import VoucherRequests
from gateway.app.control.watch_requests import WatchRequests
from gateway.app.control.watchman import Watchman
from gateway.app.voucher_key import VoucherKeys
from gateway.core.errors import StoreAwayError
from gateway.store.forecasts import load_profiles
from gateway.store.reader import StoreReader
from gateway.store.requests import RequestReader
from gateway.store.vouchers import unused_by_key

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Office:
    """Who carries out requests, and those of them that look at their own things after a sweep."""

    executor: Executor
    recovery: RecoveryWatch
    counter: CounterRequests
    watchman: Watchman
    forecaster: Forecaster
    nodes: NodeOffice

    def after_sweep(self) -> None:
        """Look at what time brings."""
        self.recovery.look()
        self.counter.look()
        self.watchman.keep()
        self.forecaster.look()
        self.nodes.look()


def _is_kept_on(desk: Desk, index: int) -> bool:
    """Whether a calendar keeps supply on at a point now; with a clock in doubt it does."""
    account = desk.engine.points[index].account
    calendar = account.credit.terms.calendar if account else None
    if calendar is None:
        return False
    return not desk.engine.gate.clock.trusted or calendar.is_friendly(desk.books.label())


def _tell_lost_keys(keys: VoucherKeys, display: Display, ledger: StoreReader) -> None:
    """Say once that vouchers were sold under a key that is not here any more."""
    try:
        unused = ledger.read(unused_by_key)
    except StoreAwayError as error:
        # A look that may be long: nothing hangs on it, and control starts without it.
        log.warning("vouchers.not_compared", reason=str(error))
        return
    lost = {mark: count for mark, count in unused.items() if keys.of_mark(mark) is None}
    if lost:
        count, marks = sum(lost.values()), sorted(lost)
        display.event("VOUCHER_KEY_LOST", "site", "critical", vouchers=count, key_marks=marks)


def office_of(
    config: Config,
    desk: Desk,
    *,
    sweeper: Sweeper,
    recovery: RecoveryWatch,
    watchman: Watchman,
    nodes: NodeOffice,
    display: Display,
    ledger: StoreReader,
    requests: RequestReader,
) -> Office:
    """Wire everybody. `ledger` is a read-only view of what control has committed."""
    counter = CounterRequests(desk, display)
    counter.begin(ledger)
    supply = SupplyRequests(desk, sweeper)
    watch = WatchRequests(desk, watchman, supply)
    terms = voucher_terms(config, desk.currency)
    _tell_lost_keys(terms.keys, display, ledger)
    vouchers = VoucherRequests(desk, terms)
    forecaster = Forecaster(desk, display, desk.till.rules.zone, ledger.read(load_profiles))
    display.learned = forecaster.learn
    governor = desk.engine.governor
    governor.credit_deferred = partial(_is_kept_on, desk)
    watchman.on_tamper = lambda index, *, standing: governor.set_tamper(index, suspected=standing)
    executor = Executor(
        desk,
        [
            CreditRequests(desk),
            AccountRequests(desk),
            TariffRequests(desk),
            supply,
            LoadRequests(desk, supply, sweeper),
            recovery,
            counter,
            watch,
            vouchers,
            DeviceRequests(desk, nodes.book, display.event, nodes.forget),
            NodeRequests(desk, nodes),
            RolloutRequests(desk, nodes.rollouts, requests, config.south.firmware.public),
        ],
        counter=counter,
        check=watch.check,
        may_lift=vouchers.may_lift,
    )
    nodes.buttons.execute = executor.execute
    return Office(executor, recovery, counter, watchman, forecaster, nodes)
