"""The error tree of the gateway.

    GatewayError
    ├── RefusedError      a rule says no (4xx): the request is wrong, nothing changed
    ├── MeterError        a meter or its link: the poller backs off and goes on
    ├── StoreError        a file of ours
    └── ConfigurationError

Every class carries `code` (stable: shown in API problems, logs, metrics and docs/errors.md) and
`retry` (whether the same call may succeed: never, now, or after backing off).
"""

from enum import StrEnum
from typing import ClassVar

from gateway.core.proof import Observation


class Retry(StrEnum):
    """Whether the same call may succeed later."""

    NEVER = "never"
    NOW = "now"
    BACKOFF = "backoff"


class GatewayError(Exception):
    """Root of all errors that this program raises on purpose."""

    code: ClassVar[str] = "INTERNAL"
    retry: ClassVar[Retry] = Retry.NEVER


class RefusedError(GatewayError):
    """A rule refuses a request. `code` names the rule, `place` the field where known."""

    def __init__(self, code: str, message: str, place: str = "") -> None:
        super().__init__(message)
        self.refusal_code = code
        self.place = place

    @property
    def message(self) -> str:
        """What to tell the person, with the next step where there is one."""
        return str(self.args[0])


class MeterError(GatewayError):
    """A meter or its link failed."""

    code = "METER"
    retry = Retry.BACKOFF


class MeterTimeoutError(MeterError):
    """No reply within the deadline; the link is closed because a late reply would lie."""

    code = "METER_TIMEOUT"


class MeterUnreachableError(MeterError):
    """The connection was refused, reset or could not be made."""

    code = "METER_UNREACHABLE"


class MeterProtocolError(MeterError):
    """The reply does not fit the request: wrong function, length, transaction, unit or bytes."""

    code = "METER_PROTOCOL"


class MeterCounterError(MeterProtocolError):
    """An energy register held no possible counter; the bytes around it were in order.

    `seen` is what the supply showed with it, as old as its question; `measures`: the lane reads
    currents too, so that one it did not show cannot be measured.
    """

    def __init__(self, message: str, seen: Observation, *, measures: bool) -> None:
        super().__init__(message)
        self.seen = seen
        self.measures = measures


class MeterExceptionError(MeterError):
    """The meter answered with a Modbus exception.

    `exception_code` is the Modbus code; 0xF0 is Siemens' write protection
    (PAC3220 manual p112).
    """

    code = "METER_EXCEPTION"

    def __init__(self, message: str, exception_code: int) -> None:
        super().__init__(message)
        self.exception_code = exception_code


class NodeRefusedError(MeterExceptionError):
    """A node answered a command with a refusal. `node_code` is the code of its result."""

    code = "NODE_REFUSED"

    def __init__(self, node_code: str, message: str) -> None:
        super().__init__(f"{node_code}: {message}" if message else node_code, 0)
        self.node_code = node_code


class MeterIdentityError(MeterError):
    """Another device answers at this address."""

    code = "METER_IDENTITY"
    retry = Retry.BACKOFF


class StoreError(GatewayError):
    """A store file cannot be used."""

    code = "STORE"


class StoreMissingError(StoreError):
    """The store does not exist: an installation never starts empty by accident."""

    code = "STORE_MISSING"


class StoreCorruptError(StoreError):
    """The store's content contradicts itself: start refused, restore named."""

    code = "STORE_CORRUPT"


class StoreLockedError(StoreError):
    """Another process writes this store."""

    code = "STORE_LOCKED"


class StoreBusyError(StoreError):
    """More work is queued than the bound allows, or a file is locked; nothing was taken."""

    code = "STORE_BUSY"
    retry = Retry.BACKOFF


class StoreAwayError(StoreError):
    """The other process's file cannot be read right now."""

    code = "STORE_AWAY"
    retry = Retry.NOW


class ConfigurationError(GatewayError):
    """The configuration cannot be used. `problems` holds `file:line:column: path: message`."""

    code = "CONFIGURATION"

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
