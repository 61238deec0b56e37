"""How a route reaches the opened resources of north."""

from fastapi import Request

from gateway.north.context import NorthContext


def context_of(request: Request) -> NorthContext:
    """The context that `create_app` was given."""
    context = request.app.state.context
    if not isinstance(context, NorthContext):
        raise TypeError("the application was not made by create_app")
    return context
