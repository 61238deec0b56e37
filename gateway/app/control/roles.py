"""A check meter charges nobody: a configuration that gives one to a customer is refused."""

from collections.abc import Iterator

from gateway.app.config import Config
from gateway.app.control.feeder_watch import CHECK
from gateway.store.db import Connection
from gateway.store.registry import account_at


def role_problems(connection: Connection, config: Config) -> Iterator[str]:
    """Check meters at whose points an account is open, one line each."""
    for meter in config.points:
        if meter.role != CHECK:
            continue
        account = account_at(connection, meter.service_point_id)
        if account is not None:
            yield (
                f"{meter.place}: role: {meter.meter_id} cannot check its feeder: account "
                f"{account.account_id} is open there"
            )
