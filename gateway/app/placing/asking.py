"""A wish asked of north once and followed to its outcome."""

from collections.abc import Callable, Mapping

from gateway.app.account_import import LOOK_EVERY_S, PENDING_S
from gateway.core.errors import RefusedError
from gateway.north.client import LocalClient


def carried_out(
    north: LocalClient,
    path: str,
    body: Mapping[str, object] | None,
    key: str,
    sleep: Callable[[float], None],
) -> bool:
    """Whether a wish was executed; False while control has not answered (it is kept).

    Raises RefusedError with control's reason, StoreAwayError.
    """
    answer: Mapping[str, object] = north.call("POST", path, body, key)
    waited_s = 0.0
    while answer.get("state") == "pending":
        if waited_s >= PENDING_S:
            return False
        sleep(LOOK_EVERY_S)
        waited_s += LOOK_EVERY_S
        answer = north.call("GET", f"/requests/{key}")
    state = str(answer.get("state"))
    if state != "executed":
        code = str(answer.get("code") or state.upper())
        raise RefusedError(code, str(answer.get("message") or ""))
    return True
