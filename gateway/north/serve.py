"""Both listeners of north: HTTP(S) for the office, a Unix socket for the command line."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI

from gateway.core.errors import ConfigurationError
from gateway.north.context import Listen, NorthContext
from gateway.north.http.app import create_app
from gateway.north.known_head import HeadMemory
from gateway.north.live_watch import LiveWatch
from gateway.north.peer import GatewayProtocol

STOP_DEADLINE_S: Final = 3
KEEP_ALIVE_S: Final = 15
BACKLOG: Final = 128
MAX_HEAD_BYTES: Final = 16 * 1024
SOCKET_MODE: Final = 0o660
TICK_S: Final = 0.05

_log = structlog.get_logger("gateway.north")


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: stopping is the supervisor's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    context: NorthContext,
    stop: asyncio.Event,
    on_started: Callable[[tuple[str, ...]], None] | None = None,
) -> None:
    """Serve until `stop` is set, then end streams and requests within STOP_DEADLINE_S or so.

    `on_started` gets the URLs once every listener accepts (the port is real where 0 was asked
    for). Raises ConfigurationError when an address cannot be taken.
    """
    app = create_app(context)
    with contextlib.ExitStack() as sockets:
        servers: list[tuple[_Server, socket.socket]] = []
        for listen in context.settings.listen:
            taken = sockets.enter_context(_tcp_socket(listen))
            servers.append((_server(app, listen), taken))
        local = sockets.enter_context(_local_socket(context.settings.socket_path))
        servers.append((_server(app, None), local))
        async with asyncio.TaskGroup() as group:
            for server, taken in servers:
                group.create_task(server.serve([taken]), name="http listener")
            background = group.create_task(LiveWatch(context).run(), name="north background")
            remembering = group.create_task(HeadMemory(context).run(), name="known head")
            group.create_task(context.denial_post.run(stop), name="denials")
            while not all(server.started for server, _ in servers):  # noqa: ASYNC110 - no event
                await asyncio.sleep(TICK_S)
            urls = tuple(
                _url(listen, taken)
                for listen, (_, taken) in zip(context.settings.listen, servers, strict=False)
            )
            _log.info("north serves", urls=urls, socket=str(context.settings.socket_path))
            if on_started is not None:
                on_started(urls)
            await stop.wait()
            context.hub.close()
            for server, _ in servers:
                server.should_exit = True
            background.cancel()
            remembering.cancel()


def _server(app: FastAPI, listen: Listen | None) -> _Server:
    tls = listen is not None and listen.certificate_path is not None
    config = uvicorn.Config(
        app,
        http=GatewayProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=listen is not None and bool(listen.proxies),
        forwarded_allow_ips=list(listen.proxies) if listen is not None else [],
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_DEADLINE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_certfile=listen.certificate_path if listen is not None and tls else None,
        ssl_keyfile=listen.key_path if listen is not None and tls else None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            (f"north.http.tls: certificate and key cannot be used: {error}",)
        ) from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return _Server(config)


def _url(listen: Listen, taken: socket.socket) -> str:
    scheme = "http" if listen.certificate_path is None else "https"
    return f"{scheme}://{Listen(listen.host, taken.getsockname()[1])}"


def _tcp_socket(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only then, and with it
    # every answer of two writes would wait 40 ms for the client's delayed acknowledgement.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((listen.host, listen.port))
    except OSError as error:
        taken.close()
        taken_already = error.errno == errno.EADDRINUSE
        why = "another program has this port: end it, or name another" if taken_already else error
        problem = f"north.http.listen: cannot listen at {listen}: {why}"
        raise ConfigurationError((problem,)) from error
    taken.settimeout(0)
    return taken


@contextlib.contextmanager
def _local_socket(path: Path) -> Iterator[socket.socket]:
    """The command line's socket, mode 0660; a stale one of a dead process is replaced."""
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigurationError((f"runtime_dir: {path} is in the way and is no socket",))
    if _answers(path):
        raise ConfigurationError((f"runtime_dir: another north serves {path}",))
    path.unlink(missing_ok=True)
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mask keeps the socket closed to others from its first moment, not only after chmod.
    mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        taken.bind(str(path))
    except OSError as error:
        taken.close()
        raise ConfigurationError((f"runtime_dir: cannot listen at {path}: {error}",)) from error
    finally:
        os.umask(mask)
    taken.settimeout(0)
    inode = path.stat().st_ino
    try:
        yield taken
    finally:
        taken.close()
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()


def _answers(path: Path) -> bool:
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
