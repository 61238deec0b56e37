"""The north process: everything that an office talks to."""

import asyncio
from contextlib import suppress

import structlog

from gateway.app.config import Config
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.money import Currency
from gateway.core.reading import Lane
from gateway.north.context import Listen, MeterEntry, NorthSettings, open_north
from gateway.north.serve import serve
from gateway.north.tokens import create_setup_token
from gateway.south.models import meter_model

log = structlog.get_logger()


def north_settings(config: Config) -> NorthSettings:
    """What north needs of the configuration."""
    paths, http = paths_of(config), config.north.http
    site = config.site
    return NorthSettings(
        site_id=site.id,
        currency=Currency(site.currency, site.money_scale, site.minor_digits),
        ledger_path=paths.ledger,
        telemetry_dir=paths.telemetry_dir,
        live_dir=paths.live_dir,
        north_dir=paths.north_dir,
        socket_path=paths.socket,
        listen=(
            Listen(
                http.host,
                http.port,
                http.tls.cert if http.tls else None,
                http.tls.key if http.tls else None,
                http.behind_proxy,
            ),
        ),
        meters=tuple(
            MeterEntry(
                meter_id=meter.meter_id,
                service_point_id=meter.service_point_id,
                account_id=meter.account_id,
                label=meter.label,
                model=meter.model,
                feeder=meter.feeder,
                poll_s=meter.settings.poll_s,
                units=_units(meter.model),
            )
            for meter in config.meters
        ),
    )


async def run_north(config: Config, clock: Clock, stop: asyncio.Event) -> None:
    """Serve the API until `stop`. Raises ConfigurationError, StoreError."""
    paths = paths_of(config)
    make_runtime_dir(paths.north_runtime_dir)
    failures: list[StoreError] = []
    loop = asyncio.get_running_loop()

    def failed(error: StoreError) -> None:
        failures.append(error)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)

    async with open_north(north_settings(config), clock, on_fatal=failed) as context:
        if await create_setup_token(context, paths.setup_token):
            log.warning("north.setup_token", file=str(paths.setup_token), valid_h=24)
        await serve(context, stop)
    if failures:
        raise failures[0]


def _units(model_name: str) -> dict[str, str]:
    model = meter_model(model_name)
    return {name: model.measurement(name).unit for name in model.names(Lane.FULL)}
