"""What north refused, on its way to the audit record, which control alone writes.

Nothing a caller sent is copied as it came: a voucher number or a token may stand anywhere, also in
the name of a field or in a path. North makes a `Denial`, control checks it again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.voucher import masked

TEXT_MAX: Final = 128
OBJECT_MAX: Final = 8
COUNT_MAX: Final = 10**9
UTC_MS_MAX: Final = 2**53
# A voucher has 20 digits, often in groups; an id, an amount or a number of ours has fewer.
SECRET_DIGITS: Final = 16
TOKEN_MARK: Final = "pgw_"  # noqa: S105 what tokens begin with, not one
HIDDEN: Final = "…"
# The one entry of everything that was not told one by one.
FURTHER: Final = "further denials"

_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_NUMBER: Final = re.compile(r"[0-9](?:[ .-]*[0-9])+")
_KEPT: Final = re.compile(r"[\x20-\x7e]*")
NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Denial:
    """One refusal, or `count` alike between two times: who, from where, what, at which place.

    `code` is that of the problem document; `request` the caller's idempotency key, if any.
    """

    actor: str
    role: str
    source: str
    action: str
    code: str
    place: str
    request: str
    object: Mapping[str, str]
    count: int
    first_utc_ms: int
    last_utc_ms: int


class Allowance:
    """So many at once, then one every `refill_s` seconds. Times are monotonic nanoseconds."""

    def __init__(self, burst: int, refill_s: float) -> None:
        self._burst = burst
        self._refill_ns = int(refill_s * NS_PER_S)
        self._left = burst
        self._since_ns: int | None = None

    def left(self, now_ns: int) -> int:
        """How many may be taken now."""
        if self._since_ns is None or self._left >= self._burst:
            self._since_ns = now_ns
        new = (now_ns - self._since_ns) // self._refill_ns
        self._since_ns += new * self._refill_ns
        self._left = min(self._burst, self._left + new)
        return self._left

    def take(self, now_ns: int, count: int = 1) -> bool:
        """Take `count`; False, and nothing taken, where there are not so many."""
        if self.left(now_ns) < count:
            return False
        self._left -= count
        return True


def shown(text: str) -> str:
    """A caller's text as it may stand on record: bounded, printable, without long numbers or
    tokens.
    """
    # Longer than what is kept: a number must not be cut to a piece that looks harmless.
    looked_at = text[: 2 * TEXT_MAX]
    if TOKEN_MARK in looked_at.lower() or not _KEPT.fullmatch(looked_at):
        return HIDDEN
    return _NUMBER.sub(_hide, looked_at)[:TEXT_MAX]


def _hide(found: re.Match[str]) -> str:
    number = found[0]
    digits = sum(letter.isdigit() for letter in number)
    return masked(number) if digits >= SECRET_DIGITS else number


def encode_denial(denial: Denial) -> dict[str, object]:
    """A denial as plain JSON values."""
    return {
        "actor": denial.actor,
        "role": denial.role,
        "source": denial.source,
        "action": denial.action,
        "code": denial.code,
        "place": denial.place,
        "request": denial.request,
        "object": dict(denial.object),
        "count": denial.count,
        "first_utc_ms": denial.first_utc_ms,
        "last_utc_ms": denial.last_utc_ms,
    }


def decode_denial(document: Mapping[str, object]) -> Denial:
    """A denial from JSON values, nothing of it believed: texts are `shown`, numbers bounded.

    Raises RefusedError REQUEST_FIELD.
    """
    code, named = _text(document, "code"), document.get("object")
    if not _CODE.fullmatch(code):
        raise RefusedError("REQUEST_FIELD", "expected a code", "code")
    if not isinstance(named, dict) or len(named) > OBJECT_MAX:
        raise RefusedError("REQUEST_FIELD", "expected a few names", "object")
    return Denial(
        actor=_text(document, "actor"),
        role=_text(document, "role"),
        source=_text(document, "source"),
        action=_text(document, "action"),
        code=code,
        place=_text(document, "place"),
        request=_text(document, "request"),
        object={shown(str(name)): _text(named, name) for name in named},
        count=_number(document, "count", COUNT_MAX),
        first_utc_ms=_number(document, "first_utc_ms", UTC_MS_MAX),
        last_utc_ms=_number(document, "last_utc_ms", UTC_MS_MAX),
    )


def audited_denial(denial: Denial) -> dict[str, object]:
    """The audit record of a denial: the members of any refused request, `by` north, `count`."""
    return {
        "actor": denial.actor,
        "role": denial.role,
        "source": denial.source,
        "approver": None,
        "action": denial.action,
        "object": dict(denial.object),
        "request": denial.request,
        "result": denial.code,
        "place": denial.place,
        "by": "north",
        "count": denial.count,
        "first_utc_ms": denial.first_utc_ms,
        "last_utc_ms": denial.last_utc_ms,
    }


def _text(document: Mapping[str, object], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise RefusedError("REQUEST_FIELD", "expected text", name)
    return shown(value)


def _number(document: Mapping[str, object], name: str, limit: int) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise RefusedError("REQUEST_FIELD", f"expected a number up to {limit}", name)
    return value
