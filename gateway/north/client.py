"""What the command line uses to speak to a running north over its Unix socket."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import httpx
import orjson

from gateway.core.errors import RefusedError, StoreAwayError

TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 2.0
# httpx wants a host for the URL; nothing resolves it on a Unix socket.
BASE_URL: Final = "http://prepaid-gateway"


class LocalClient:
    """Calls the API of the north process on this machine; the kernel states who calls.

    Use as a context manager. Every call is bounded by `timeout_s`.
    """

    def __init__(self, socket_path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket_path = socket_path
        transport = httpx.HTTPTransport(uds=str(socket_path))
        self._http = httpx.Client(transport=transport, base_url=BASE_URL, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        json: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, object]:
        """Call `/api/v1` + `path`; the answer's JSON object (empty when there is none).

        Raises RefusedError with the problem's code when a rule refuses, StoreAwayError when no
        north answers or one of its stores is away.
        """
        headers = {"accept": "application/json"}
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        self._check_listener()
        try:
            answer = self._http.request(
                method,
                f"/api/v1{path}",
                content=None if json is None else orjson.dumps(json),
                headers={**headers, "content-type": "application/json"},
            )
        except httpx.HTTPError as error:
            raise StoreAwayError(f"north did not answer: {type(error).__name__} {error}") from error
        body = _object_of(answer)
        if answer.is_success:
            return body
        code = str(body.get("code", "INTERNAL"))
        detail = str(body.get("detail", f"HTTP status {answer.status_code}"))
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise StoreAwayError(f"{code}: {detail}")
        raise RefusedError(code, _with_errors(detail, body), str(body.get("place", "")))

    def _check_listener(self) -> None:
        # httpcore leaks the descriptor of a Unix socket that nobody answers at.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            try:
                probe.connect(str(self._socket_path))
            except OSError as error:
                raise StoreAwayError(
                    f"no north process answers at {self._socket_path} ({error.strerror or error}); "
                    "is `prepaid-gateway run` running, and may this user speak to it?"
                ) from error


def _object_of(answer: httpx.Response) -> dict[str, object]:
    if not answer.content:
        return {}
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        raise StoreAwayError(f"the answer is no JSON (status {answer.status_code})") from error
    return body if isinstance(body, dict) else {"items": body}


def _with_errors(detail: str, body: Mapping[str, object]) -> str:
    errors = body.get("errors")
    if not isinstance(errors, list):
        return detail
    lines = [f"{e.get('place')}: {e.get('message')}" for e in errors if isinstance(e, dict)]
    return "\n".join([detail, *lines])
