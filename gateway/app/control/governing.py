"""The governor as configuration and ledger have it."""

from collections.abc import Sequence

from gateway.app.clock import seeded
from gateway.app.config import Config
from gateway.app.control.books import Books
from gateway.app.control.display import Display
from gateway.app.control.feeder_watch import CHECK
from gateway.app.control.governor import Governor, GovernorTerms
from gateway.app.control.supply_records import SupplyRecords, apply_limits
from gateway.core.clock import Clock
from gateway.core.feeder import FeederRules
from gateway.core.point import Point
from gateway.core.shedding import ShedRules
from gateway.store.supply_orders import read_supply_orders
from gateway.store.writer import StoreWriter


def governor_of(
    config: Config,
    writer: StoreWriter,
    points: Sequence[Point],
    *,
    books: Books,
    display: Display,
    clock: Clock,
) -> Governor:
    """Limits, feeders, shedding and overrides as file and ledger have them."""
    orders = writer.submit(read_supply_orders).result()
    governor = Governor(
        points,
        display,
        clock,
        terms=governor_terms(config),
        chance=seeded(f"reconnections {config.site.id} {clock.utc_ms()}").random,
        overrides=orders.overrides,
        records=SupplyRecords(books),
    )
    apply_limits(governor, {limits.service_point_id: limits for limits in orders.limits})
    return governor


def governor_terms(config: Config) -> GovernorTerms:
    """What the configuration says of feeders, shedding and tampering."""
    supply, shed = config.supply, config.supply.shed
    return GovernorTerms(
        feeder=FeederRules(
            stagger_s=supply.stagger_s,
            burst=supply.reconnect_burst,
            jitter_s=supply.reconnect_jitter_s,
            generator_hold_s=supply.generator_hold_s,
        ),
        shed=ShedRules(
            over_s=shed.over_s, release_s=shed.release_s, margin_percent=shed.margin_percent
        ),
        priorities=tuple(meter.priority for meter in config.points),
        capacities_w={feeder.id: feeder.capacity_w for feeder in config.feeders},
        inrush_percent=supply.inrush_percent,
        tamper_cuts=supply.tamper == "cut",
        checks=frozenset(i for i, meter in enumerate(config.points) if meter.role == CHECK),
    )
