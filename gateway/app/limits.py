"""File descriptors: asked for at the start, so that nobody finds out at the thousandth meter."""

import resource
from typing import Final

import structlog

log = structlog.get_logger()

# A PAC3220 accepts three connections: polling, a reconnection beside it, a commissioning.
LINKS_PER_METER: Final = 3
# Stores, live table, sockets of the loop, and files that are open for a moment.
RESERVE: Final = 256


def descriptors_needed(meters: int) -> int:
    """How many descriptors control may have to open at once."""
    return LINKS_PER_METER * meters + RESERVE


def raise_descriptor_limit(needed: int) -> int:
    """Raise the soft limit to the hard one; says once when even that is less than `needed`.

    Returns the limit in force. The process goes on: connections are opened as far as it reaches.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        hard = soft
    if hard < needed:
        log.warning(
            "descriptors.few",
            limit=hard,
            needed=needed,
            next_step=f"set LimitNOFILE={needed} in the unit, or `ulimit -Hn {needed}`",
        )
    return hard
