"""The API as one ASGI application."""

from typing import Final

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from gateway import __version__
from gateway.north.context import NorthContext
from gateway.north.http import (
    accounts,
    bills,
    commands,
    credit,
    decisions,
    devices,
    firmware,
    keys,
    load,
    meters,
    metrics,
    operations,
    replays,
    shifts,
    stream,
    system,
    tariffs,
    vouchers,
    watch,
)
from gateway.north.http.auth import ALL_ROLES, access
from gateway.north.http.forms import PREFIX
from gateway.north.http.gate import Gate
from gateway.north.http.openapi import TITLE, document_of
from gateway.north.http.problems import install

OPENAPI_PATH: Final = f"{PREFIX}/openapi.json"
AREAS: Final = (
    meters,
    commands,
    decisions,
    accounts,
    credit,
    tariffs,
    replays,
    stream,
    system,
    operations,
    metrics,
    keys,
    shifts,
    watch,
    vouchers,
    bills,
    load,
    devices,
    firmware,
)


def create_app(context: NorthContext) -> FastAPI:
    """The application over opened resources. Every path but two needs a known caller.

    The interactive pages of FastAPI are off: they load scripts from other people's servers. So is
    its telemetry, which an environment variable could switch on.
    """
    app = FastAPI(
        title=TITLE,
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.context = context
    install(app)
    for area in AREAS:
        app.include_router(area.router)
    app.add_middleware(
        Gate, tokens=context.tokens, failures=context.failures, stream_path=stream.STREAM_PATH
    )

    @app.get(OPENAPI_PATH, tags=["system"], **access(ALL_ROLES))
    async def openapi(request: Request) -> JSONResponse:
        """This document."""
        return JSONResponse(document_of(request.app))

    return app
