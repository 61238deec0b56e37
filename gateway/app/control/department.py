"""What the executor asks of those who carry out requests."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from gateway.core.requests import Request

# Takes the body of a request, of its own type, and the request.
Method = Callable[[Any, Request], Awaitable[None]]


class Department(Protocol):
    """Carries out some types of requests."""

    @property
    def methods(self) -> Mapping[type, Method]:
        """What it carries out, by the type of the body."""
        ...
