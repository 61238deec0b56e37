"""SIGHUP in control: the file is read again, judged whole, and followed or refused."""

import asyncio
from typing import Final

import structlog

from gateway.app.config import Config
from gateway.app.control.boot import admit
from gateway.app.control.display import Display
from gateway.app.notify import Notifier
from gateway.app.reload import CONTROL, read_again, tell_changes, tell_refusal
from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError
from gateway.store.writer import GroupCommitWriter

log = structlog.get_logger()

PROBLEMS_KEPT: Final = 20


class Reconfiguration:
    """Answers `wanted` for one configuration; whoever runs it asks `look` now and then."""

    def __init__(
        self,
        config: Config,
        wanted: asyncio.Event,
        *,
        writer: GroupCommitWriter,
        display: Display,
        clock: Clock,
        notifier: Notifier,
    ) -> None:
        self._config = config
        self._wanted = wanted
        self._writer = writer
        self._display = display
        self._clock = clock
        self._notifier = notifier

    async def look(self) -> Config | None:
        """The configuration to go on with; None when nothing was asked, changed or accepted.

        What meters the file adds has a service point by then. Nothing else was touched.
        """
        if not self._wanted.is_set():
            return None
        self._wanted.clear()
        self._notifier.reloading()
        try:
            fresh, found = await asyncio.to_thread(read_again, self._config, CONTROL)
            if found:
                utc_ms = self._clock.utc_ms()
                await asyncio.wrap_future(
                    self._writer.submit(lambda c: admit(c, self._config, fresh, utc_ms))
                )
        except ConfigurationError as error:
            tell_refusal(error)
            problems = list(error.problems[:PROBLEMS_KEPT])
            self._display.event("CONFIG_REFUSED", "site", "warning", problems=problems)
            self._notifier.ready("the new configuration was refused, the old one goes on")
            return None
        if not found:
            log.info("config.unchanged")
            self._notifier.ready("running")
            return None
        tell_changes(found)
        self._display.event(
            "CONFIG_APPLIED",
            "site",
            "notice",
            changes=[str(change) for change in found[:PROBLEMS_KEPT]],
            count=len(found),
        )
        return fresh
