"""From configuration and `ledger.db` to points in memory, as they were when the process ended."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gateway.app.config import Config, PointConfig
from gateway.app.control.engine import CommandTrack
from gateway.app.control.roles import role_problems
from gateway.app.control.shelf import TariffShelf
from gateway.app.reload import check_removed
from gateway.core.account import Account
from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError
from gateway.core.export import ExportPolicy, FeedIn
from gateway.core.guard import RegisterGuard
from gateway.core.limiter import POWER_HOLDS_S, Limiter, LimiterRules, Limits
from gateway.core.money import Currency
from gateway.core.point import Point, PointTerms, Slept
from gateway.core.pricing import Pricer
from gateway.core.provenance import ASSIGN_METER
from gateway.core.schedule import day_of_month
from gateway.core.supply import Supply
from gateway.core.switching import Reason, SupplyPolicy
from gateway.south.metering import metering
from gateway.store.accounts import AccountPoint, load_credit, open_points
from gateway.store.audit import append_audit
from gateway.store.commands import (
    RequestCursor,
    SwitchAction,
    SwitchCommand,
    load_request_cursor,
    open_commands,
)
from gateway.store.db import Connection
from gateway.store.ledger import read_balances, read_site
from gateway.store.registry import (
    AccountStatus,
    MeterAssignment,
    ServicePoint,
    assign_meter,
    assignment_of,
    is_enforced,
    put_service_point,
    read_accounts,
    read_tariffs,
)
from gateway.store.state import (
    RegisterState,
    load_account_state,
    load_point_states,
    load_register_state,
)

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a start found: points by meter index, tariffs, unfinished commands, cursor, site.

    `accounts` are the open ones by id; `unmetered` those of whose points one has no meter in the
    configuration. `owing` are points that a fee came to with this start: it is to be posted.
    """

    points: tuple[Point, ...]
    accounts: Mapping[str, Account]
    shelf: TariffShelf
    currency: Currency
    commands: Mapping[int, CommandTrack]
    cursor: RequestCursor | None
    site: Mapping[str, object]
    elapsed_ms: int
    last_utc_ms: int
    unmetered: tuple[str, ...]
    owing: frozenset[int]


def boot_id() -> str:
    """The kernel's name of this boot; monotonic times of another one mean nothing."""
    return BOOT_ID_PATH.read_text(encoding="ascii").strip()


def check_site(connection: Connection, config: Config) -> Currency:
    """The site's currency, after checking that what is frozen was not changed in the file.

    Raises ConfigurationError naming the keys.
    """
    site = read_site(connection)
    frozen = {
        "site.id": (site.site_id, config.site.id),
        "site.currency": (site.currency, config.site.currency),
        "site.money_scale": (site.money_scale, config.site.money_scale),
        "site.timezone": (site.zone, config.site.timezone),
    }
    problems = tuple(
        f"{config.path}: {key}: is {given!r}, but the stores were created with {kept!r}; "
        "it cannot change"
        for key, (kept, given) in frozen.items()
        if kept != given
    )
    if problems:
        raise ConfigurationError(problems)
    given = config.site.amount_max
    return Currency(site.currency, site.money_scale, site.minor_digits, given)


def provision(connection: Connection, config: Config, utc_ms: int) -> None:
    """Give every configured meter its service point. Raises ConfigurationError for a moved one."""
    problems: list[str] = list(role_problems(connection, config))
    for meter in config.points:
        point = ServicePoint(meter.service_point_id, meter.label, meter.feeder, meter.critical)
        put_service_point(connection, point)
        current = assignment_of(connection, meter.meter_id)
        if current is None:
            registers = (0,) * len(metering(meter.model).energy_import)
            stay = MeterAssignment(meter.meter_id, meter.service_point_id, utc_ms, registers)
            assign_meter(connection, stay)
            append_audit(connection, utc_ms=utc_ms, body=_assigned(stay))
        elif current.service_point_id != meter.service_point_id:
            problems.append(
                f"{meter.place}: service_point: meter {meter.meter_id} stays at "
                f"{current.service_point_id}; a meter never moves with its id"
            )
    if problems:
        raise ConfigurationError(tuple(problems))


def _assigned(stay: MeterAssignment) -> dict[str, object]:
    """The audit record of a meter that is given its point; no request asks for it."""
    return {
        "actor": "control",
        "action": ASSIGN_METER,
        "object": stay.meter_id,
        "made": {
            "meter_id": stay.meter_id,
            "service_point_id": stay.service_point_id,
            "opening_wh": list(stay.opening_wh),
            "utc_ms": stay.from_utc_ms,
        },
    }


def admit(connection: Connection, running: Config, fresh: Config, utc_ms: int) -> None:
    """Let another configuration follow the one that runs, and provision it.

    Raises ConfigurationError: a meter is gone whose account is open, or one moved.
    """
    check_removed(connection, running, fresh)
    provision(connection, fresh, utc_ms)


def restore(connection: Connection, config: Config, clock: Clock, this_boot: str) -> Restored:
    """Build every point as the file left it. Raises ConfigurationError or StoreCorruptError."""
    currency = check_site(connection, config)
    shelf = TariffShelf(read_tariffs(connection), currency)
    accounts = restore_accounts(connection, currency)
    payers = {stay.service_point_id: stay for stay in open_points(connection)}
    states = load_point_states(connection)
    registers = load_register_state(connection)
    running = cast("Mapping[str, Any]", registers.body["points"]) if registers else {}
    now = _Now(clock, this_boot)
    points: list[Point] = []
    owing: set[int] = set()
    for meter in config.points:
        point = build_point(meter, config)
        name = meter.service_point_id
        kept = _newest(states.get(name), running.get(name), registers)
        stay = payers.get(name)
        payer = accounts.get(stay.account_id) if stay is not None else None
        _restore_point(point, kept, now)
        _restore_feed_in(point, meter, kept)
        if stay is not None and payer is not None:
            if _restore_payer(point, kept, stay, payer, shelf):
                owing.add(len(points))
        else:
            # An account ended, and perhaps the process with it: its credit blocks nobody else.
            point.supply.unblock(Reason.CREDIT)
        point.supply.enforced = is_enforced(connection, point.account_id, name)
        points.append(point)
    last_utc_ms = cast("int", registers.body["label_ms"]) if registers else 0
    for account in accounts.values():
        account.recharged_utc_ms = None
        # The recharge was committed, the end of its effect perhaps not. A notice that had run out
        # has done so also where the clock starts in the past.
        account.credited(max(now.utc_ms, last_utc_ms))
    by_meter = {meter.meter_id: index for index, meter in enumerate(config.points)}
    tracks = {
        by_meter[command.meter_id]: _track(by_meter[command.meter_id], command)
        for command in open_commands(connection)
        if command.meter_id in by_meter
    }
    return Restored(
        points=tuple(points),
        accounts=accounts,
        shelf=shelf,
        currency=currency,
        commands=tracks,
        cursor=load_request_cursor(connection),
        site=cast("Mapping[str, object]", registers.body.get("site", {})) if registers else {},
        elapsed_ms=max(0, clock.utc_ms() - registers.utc_ms) if registers else 0,
        last_utc_ms=last_utc_ms,
        unmetered=_unmetered(payers.values(), config),
        owing=frozenset(owing),
    )


def _unmetered(stays: Iterable[AccountPoint], config: Config) -> tuple[str, ...]:
    served = {meter.service_point_id for meter in config.points}
    return tuple(sorted({s.account_id for s in stays if s.service_point_id not in served}))


def restore_accounts(connection: Connection, currency: Currency) -> dict[str, Account]:
    """Every open account by id, as the file left it, without its points."""
    balances, accounts = read_balances(connection), dict[str, Account]()
    for record in read_accounts(connection):
        if record.status is AccountStatus.CLOSED:
            continue
        credit = load_credit(connection, record, currency, balances)
        account = accounts[record.account_id] = Account(
            record.account_id, credit, opened_utc_ms=record.opened_utc_ms
        )
        account.restore(load_account_state(connection, record.account_id))
    return accounts


def build_point(meter: PointConfig, config: Config) -> Point:
    """A point as the configuration describes it, before anything was read."""
    settings, supply = meter.settings, config.supply
    model = metering(meter.model)
    terms = PointTerms(
        service_point_id=meter.service_point_id,
        meter_id=meter.meter_id,
        feeder=meter.feeder,
        sources=(settings.t1_source, settings.t2_source)[: len(model.energy_import)],
        p_max_w=settings.p_max_w,
        period_s=settings.poll_s,
        gap_s=config.posting.gap_s,
        refresh_s=model.refresh_s,
    )
    policy = SupplyPolicy(
        confirm_needed=settings.confirm == "arm",
        critical=meter.critical,
        verify_s=supply.verify_s,
        retries=supply.retries,
        min_off_s=supply.min_off_s,
        starting_current_a=settings.starting_current_a,
        max_reading_age_s=supply.max_reading_age_s,
        fault_retry_s=supply.fault_retry_s,
        has_feedback=settings.feedback is not None,
        upstream=settings.contactor == "upstream",
        returns_by_itself=supply.returns_by_itself,
    )
    limiter = Limiter(
        LimiterRules(
            over_s=supply.limiter.over_s,
            restore_s=supply.limiter.restore_s,
            max_trips=supply.limiter.max_trips,
            window_s=supply.limiter.window_s,
            # Beyond two polls nobody saw what flowed between them.
            hold_s=max(POWER_HOLDS_S, 2 * settings.poll_s),
        ),
        Limits(settings.limits_w(terms.sources), settings.limit_emergency_w),
    )
    point = Point(terms, guard_of(meter), Supply(policy, limiter))
    if ExportPolicy(settings.export) is ExportPolicy.CREDITED:
        point.feed_in = _feed_in(meter, is_credited=True)
    return point


def guard_of(meter: PointConfig) -> RegisterGuard:
    """A fresh guard for registers of this meter."""
    model = metering(meter.model)
    return RegisterGuard(
        p_max_w=meter.settings.p_max_w,
        modulus_wh=model.energy_modulus_wh,
        refresh_s=model.refresh_s,
        nvm_interval_s=model.nvm_interval_s,
        folds=model.folds,
    )


def _feed_in(meter: PointConfig, *, is_credited: bool) -> FeedIn:
    places = metering(meter.model).export_places
    return FeedIn(lambda: guard_of(meter), places, is_credited=is_credited)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A point's state on file: posted part, running part, in which boot and when (wall ms)."""

    posted: Mapping[str, Any]
    running: Mapping[str, Any] | None
    boot_id: str
    utc_ms: int
    mono_ns: int


class _Now:
    """This start's times and boot."""

    def __init__(self, clock: Clock, this_boot: str) -> None:
        self.mono_ns = clock.mono_ns()
        self.utc_ms = clock.utc_ms()
        self._boot = this_boot

    def is_boot_of(self, kept: _Kept) -> bool:
        """Whether monotonic times on file are this boot's."""
        return kept.boot_id == self._boot


def _newest(
    state: Mapping[str, Any] | None, swept: Mapping[str, Any] | None, sweep: RegisterState | None
) -> _Kept | None:
    """The newer of a sweep's running state and the one kept with the latest posting."""
    posted = state or {}
    with_posting = posted.get("running")
    if swept is not None and sweep is not None:
        same = with_posting is None or (
            swept["posting"] == posted["posting"] and swept["sequence"] >= with_posting["sequence"]
        )
        if same:
            body = sweep.body
            return _Kept(
                posted,
                swept,
                cast("str", body["boot_id"]),
                cast("int", body["wall_ms"]),
                cast("int", body["mono_ns"]),
            )
    if state is None:
        return None
    return _Kept(posted, with_posting, posted["boot_id"], posted["utc_ms"], posted["mono_ns"])


def _restore_point(point: Point, kept: _Kept | None, now: _Now) -> None:
    """Registers, running consumption and supply of a point, whoever pays for it."""
    if kept is not None and kept.running is not None:
        guard_state = kept.running["guard"]
        base_ns = min(guard_state["mono_ns"], now.mono_ns) if now.is_boot_of(kept) else now.mono_ns
        point.guard.restore(guard_state, mono_ns=base_ns)
        point.restore_running(kept.running)
        slept = _slept(kept, kept.running, now)
        if slept is not None:
            point.sleep_since(slept)
    if kept is not None and "supply" in kept.posted:
        point.supply.restore(kept.posted["supply"], now.mono_ns, now.utc_ms)
        point.restore_deferral(kept.posted.get("deferral"))


def _restore_feed_in(point: Point, meter: PointConfig, kept: _Kept | None) -> None:
    """What was fed in since the last posting, also where it is no longer paid for from now on."""
    running = None if kept is None else kept.running
    if running is None or "feed_in" not in running:
        return
    point.feed_in = point.feed_in or _feed_in(meter, is_credited=False)
    state = running["feed_in"]
    # As long after the last good reading of import as it was.
    behind_ns = running["guard"]["mono_ns"] - state["guard"]["mono_ns"]
    base_ns = cast("int", point.guard.snapshot()["mono_ns"])
    point.feed_in.restore(state, mono_ns=base_ns - behind_ns)


def _restore_payer(
    point: Point, kept: _Kept | None, stay: AccountPoint, payer: Account, shelf: TariffShelf
) -> bool:
    """Go on charging a point's energy to the account that pays for it.

    True when the last recharge makes a fee due: it was committed, and the process died before that.
    """
    pricing = kept.running["pricing"] if kept is not None and kept.running is not None else {}
    versions: Sequence[Any] = shelf.versions(stay.tariff_id)
    sources = point.terms.sources
    if pricing and kept is not None:
        pricer = Pricer.restore(
            versions,
            {**pricing, "posted": kept.posted.get("posted", [])},
            sources=sources,
            start_utc_ms=stay.from_utc_ms,
        )
    else:
        # The process died between opening the account and its first record: from here on.
        pricer = Pricer(
            versions,
            start_utc_ms=stay.from_utc_ms,
            sources=sources,
            opening_day=day_of_month(versions[0], payer.opened_utc_ms),
            joined=stay.joined,
        )
    point.attach_account(payer, stay.tariff_id, pricer)
    if not pricing:
        point.begin_line()
    return payer.recharged_utc_ms is not None and pricer.recharged(payer.recharged_utc_ms)


def _slept(kept: _Kept, running: Mapping[str, Any], now: _Now) -> Slept | None:
    """Since when the machine was off, if no reading of this boot or a later one has told yet."""
    if running["slept"] is not None:
        guard, utc_ms, meter_clock_ms = running["slept"]
        return Slept(guard, utc_ms, meter_clock_ms)
    if now.is_boot_of(kept):
        return None
    base_age_ms = max(0, kept.mono_ns - running["guard"]["mono_ns"]) // 1_000_000
    return Slept(running["guard"], kept.utc_ms - base_age_ms, running["meter_clock_ms"])


def _track(index: int, command: SwitchCommand) -> CommandTrack:
    reasons = tuple(Reason(name) for name in command.reason.split(",") if name)
    return CommandTrack(
        command_id=command.command_id,
        point_index=index,
        close=command.action is SwitchAction.CLOSE,
        reasons=reasons,
        request_key=command.request_key,
        issued_utc_ms=command.issued_utc_ms,
        state=command.state.value,
        attempts=command.attempts,
        detail=dict(command.detail),
    )
