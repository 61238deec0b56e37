"""What the command line uses to speak to a running north over its Unix socket."""

import socket
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, Self, cast

import orjson

from gateway.core.errors import RefusedError, StoreAwayError

TIMEOUT_S: Final = 10.0
# HTTP wants the name of a host; nothing resolves it on a Unix socket.
HOST: Final = "prepaid-gateway"
ANSWER_BYTES_MAX: Final = 8_000_000


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket, closed again when nobody answers there."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__(HOST, timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect. Raises OSError."""
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.settimeout(self._timeout_s)
            taken.connect(str(self._path))
        except OSError:
            taken.close()
            raise
        self.sock = taken


class LocalClient:
    """Calls the API of the north process on this machine; the kernel states who calls.

    Use as a context manager. Every wait of a call is bounded by `timeout_s`.
    """

    def __init__(self, socket_path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket_path = socket_path
        self._connection = _UnixConnection(socket_path, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.close()

    def call(
        self,
        method: str,
        path: str,
        json: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
        *,
        content: bytes | None = None,
    ) -> dict[str, object]:
        """Call `/api/v1` + `path`; the answer's JSON object (empty when there is none).

        `content` is a body of bytes in place of `json`.
        Raises RefusedError with the problem's code when a rule refuses, StoreAwayError when no
        north answers or one of its stores is away.
        """
        raw = content is not None
        sent = content if content is not None or json is None else orjson.dumps(json)
        status, answer = self._ask(method, path, sent, idempotency_key, raw=raw)
        body = _object_of(status, answer)
        if status < HTTPStatus.BAD_REQUEST:
            return body
        code = str(body.get("code", "INTERNAL"))
        detail = str(body.get("detail", f"HTTP status {status}"))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise StoreAwayError(f"{code}: {detail}")
        raise RefusedError(code, _with_errors(detail, body), str(body.get("place", "")))

    def pages(self, path: str) -> Iterator[dict[str, object]]:
        """Every item of a paged resource; `path` may have a query of its own. Raises as `call`."""
        cursor, mark = "", "&" if "?" in path else "?"
        while True:
            page = self.call("GET", f"{path}{mark}limit=100&cursor={cursor}")
            yield from cast("list[dict[str, object]]", page["items"])
            cursor = str(page.get("next_cursor") or "")
            if not cursor:
                return

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        idempotency_key: str | None,
        *,
        raw: bool,
    ) -> tuple[int, bytes]:
        kind = "application/octet-stream" if raw else "application/json"
        headers = {"accept": "application/json", "content-type": kind}
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        connection = self._connection
        try:
            self._connect()
            connection.request(
                method,
                f"/api/v1{path}",
                body=body,
                headers=headers,
            )
            answer = connection.getresponse()
            return answer.status, answer.read(ANSWER_BYTES_MAX)
        except (OSError, HTTPException, ValueError) as error:
            raise StoreAwayError(f"north did not answer: {type(error).__name__} {error}") from error
        finally:
            # One connection a call: an idle one that north has closed would fail the next.
            connection.close()

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            raise StoreAwayError(
                f"no north process answers at {self._socket_path} ({error.strerror or error}); "
                "is `prepaid-gateway run` running, and may this user speak to it?"
            ) from error


def _object_of(status: int, content: bytes) -> dict[str, object]:
    if not content:
        return {}
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise StoreAwayError(f"the answer is no JSON (status {status})") from error
    return body if isinstance(body, dict) else {"items": body}


def _with_errors(detail: str, body: Mapping[str, object]) -> str:
    errors = body.get("errors")
    if not isinstance(errors, list):
        return detail
    lines = [f"{e.get('place')}: {e.get('message')}" for e in errors if isinstance(e, dict)]
    return "\n".join([detail, *lines])
