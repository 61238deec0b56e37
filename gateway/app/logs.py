"""Structured logs on standard error: lines for people on a terminal, JSON for the journal."""

import faulthandler
import io
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

import structlog

JOURNAL_VARIABLE: Final = "JOURNAL_STREAM"
# Levels of syslog(3), which the journal takes from the beginning of a line (sd-daemon(3)).
PRIORITIES: Final[Mapping[str, int]] = {
    "critical": 2,
    "error": 3,
    "exception": 3,
    "warning": 4,
    "info": 6,
    "debug": 7,
}
INFO_PRIORITY: Final = 6


def set_up_logs(process: str) -> None:
    """Configure structlog once; every line names the process.

    A process that is aborted (SIGABRT: a watchdog found that it hangs) says where it was.
    """
    level = getattr(logging, os.environ.get("LOG_LEVEL", "INFO").upper(), logging.INFO)
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
    ]
    if sys.stderr.isatty():
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(),
        ]
    elif is_journal(os.environ):
        # The journal has its own time.
        processors += [_with_priority(structlog.processors.JSONRenderer())]
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(process=process)
    try:
        faulthandler.enable(sys.stderr, all_threads=True)
    except (io.UnsupportedOperation, ValueError):
        return  # a test's standard error has no descriptor


def is_journal(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's stream, as JOURNAL_STREAM says (systemd.exec(5)).

    The variable alone is not enough: children inherit it, also those whose output goes elsewhere.
    """
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environment.get(JOURNAL_VARIABLE, "") == f"{status.st_dev}:{status.st_ino}"


def _with_priority(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    """The rendered line behind its priority, such as `<4>` for a warning."""

    def render(
        logger: structlog.typing.WrappedLogger,
        name: str,
        event: structlog.typing.EventDict,
    ) -> str:
        priority = PRIORITIES.get(str(event.pop("level", name)), INFO_PRIORITY)
        return f"<{priority}>{renderer(logger, name, event)!s}"

    return render
