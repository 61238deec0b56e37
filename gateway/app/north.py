"""The north process: everything that an office talks to."""

import asyncio
import sys
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from gateway.app.config import Config
from gateway.app.config_site import currency_of
from gateway.app.limits import raise_descriptor_limit
from gateway.app.notify import Notifier, Watchdog
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.app.reload import NORTH, check_removed, read_again, tell_changes, tell_refusal
from gateway.app.site_key import credential_file
from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError, StoreError
from gateway.core.reading import Lane
from gateway.north.context import Listen, MeterEntry, NorthContext, NorthSettings, open_north
from gateway.north.serve import serve
from gateway.north.tokens import create_setup_token
from gateway.south.metering import metering

log = structlog.get_logger()

# systemd hands it to north alone: LoadCredential=tls-key:FILE
TLS_KEY: Final = "tls-key"
# 256 connections of callers (gateway/north/peer.py), stores, and files open for a moment.
DESCRIPTORS: Final = 1_024
# A replay is a process of its own. Control comes first: the lowest priority comes before the
# imports, which are a second of a core themselves. A filter of system calls may refuse it.
REPLAY: Final = """\
import contextlib, os
with contextlib.suppress(OSError):
    os.nice(19)
from gateway.app.replay_worker import main
main()
"""


def north_settings(config: Config) -> NorthSettings:
    """What north needs of the configuration."""
    paths, http = paths_of(config), config.north.http
    site = config.site
    return NorthSettings(
        site_id=site.id,
        currency=currency_of(site),
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
                (credential_file(TLS_KEY) or http.tls.key) if http.tls else None,
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
                role=meter.role,
            )
            for meter in config.points
        ),
        blind_count=config.counter.blind_count,
        replay_command=(sys.executable, "-c", REPLAY, str(config.path)),
    )


async def run_north(
    config: Config,
    clock: Clock,
    stop: asyncio.Event,
    *,
    reload: asyncio.Event | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Serve the API until `stop`; `reload` asks for the meters to be read again from the file.

    `notifier` hears when every listener accepts, and is fed while the event loop turns.
    Raises ConfigurationError, StoreError.
    """
    wanted, notifier = reload or asyncio.Event(), notifier or Notifier(None)
    paths = paths_of(config)
    raise_descriptor_limit(DESCRIPTORS)
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
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(Watchdog(notifier).run(stop), name="watchdog"),
                group.create_task(
                    _follow(config, context, wanted, notifier), name="reconfiguration"
                ),
            ]
            await serve(context, stop, lambda urls: notifier.ready(f"serving {', '.join(urls)}"))
            notifier.stopping()
            for task in beside:
                task.cancel()
    if failures:
        raise failures[0]


async def _follow(
    config: Config, context: NorthContext, wanted: asyncio.Event, notifier: Notifier
) -> None:
    """Answer each wish for a reload: meters change while everything goes on."""
    while True:
        await wanted.wait()
        wanted.clear()
        notifier.reloading()
        try:
            fresh, found = await asyncio.to_thread(read_again, config, NORTH)
            await context.ledger.read(partial(check_removed, running=config, fresh=fresh))
        except (ConfigurationError, StoreError) as error:
            tell_refusal(error)
            notifier.ready("the new configuration was refused, the old one goes on")
            continue
        if found:
            tell_changes(found)
            config = fresh
            context.use(north_settings(config))
        else:
            log.info("config.unchanged")
        notifier.ready("serving")


def _units(model_name: str) -> dict[str, str]:
    model = metering(model_name)
    return {name: model.unit(name) for name in model.names(Lane.FULL)}
