"""Forms that every route shares: time, cursor pages, entity tags, the idempotency key."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from gateway.core.errors import RefusedError
from gateway.core.plain_text import has_controls
from gateway.core.requests import ID_PATTERN, KEY_PATTERN

PREFIX: Final = "/api/v1"
PAGE_MAX: Final = 100
PAGE_DEFAULT: Final = 50
CURSOR_MAX: Final = 512
INT64_MAX: Final = 2**63 - 1
MAX_REASON: Final = 500
UNCHANGED: Final[dict[str, object]] = {"description": "As the caller knows it (If-None-Match)"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1))

ID_EXPRESSION: Final = f"^{ID_PATTERN.pattern}$"
AMOUNT_EXPRESSION: Final = r"^[0-9]{1,18}(\.[0-9]{1,9})?$"
SIGNED_EXPRESSION: Final = r"^-?[0-9]{1,18}(\.[0-9]{1,9})?$"
PERCENT_EXPRESSION: Final = r"^[0-9]{1,3}(\.[0-9]{1,4})?$"
# What a person is told who did not write what the expression wants.
EXPECTED: Final = {
    ID_EXPRESSION: "expected an id of lower-case letters, digits and dashes, such as flat-101",
    AMOUNT_EXPRESSION: "expected an amount in major units with at most nine decimals, such as "
    "500.00",
    SIGNED_EXPRESSION: "expected an amount in major units with at most nine decimals, such as "
    "500.00 or -12.50",
    PERCENT_EXPRESSION: "expected a percentage with at most four decimals, such as 20 or 12.5",
}
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Most items in this page")]
Cursor = Annotated[
    str, Query(max_length=CURSOR_MAX, description="`next_cursor` of the page before; empty: first")
]
Id = Annotated[str, Field(pattern=ID_EXPRESSION, max_length=63)]


class Form(BaseModel):
    """A body: unknown fields are refused, so that a typing error is no silent default."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*")
    @classmethod
    def _is_unicode(cls, value: object) -> object:
        # JSON can spell lone surrogates, which no file and no hash can hold.
        if isinstance(value, str) and not is_unicode(value):
            raise ValueError("the text is no valid Unicode")
        # What is typed here is read on terminals and printed on slips, which obey them.
        if isinstance(value, str) and has_controls(value):
            raise ValueError("the text has control characters")
        return value


class ReasonForm(Form):
    """Why, in a person's own words; spaces alone are none."""

    reason: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_REASON)
    ]


class Page(BaseModel):
    """What every page of a list has."""

    next_cursor: str | None = Field(description="Cursor of the next page; null at the end")


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8 (no lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def rfc3339(utc_ms: int) -> str:
    """RFC 3339 UTC with milliseconds, such as `2026-02-01T12:30:00.000Z`."""
    moment = _EPOCH + timedelta(milliseconds=min(max(utc_ms, 0), _LAST_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_or_none(utc_ms: int | None) -> str | None:
    """`rfc3339`, passing an absent time through."""
    return None if utc_ms is None else rfc3339(utc_ms)


def encode_cursor(kind: str, place: str | int) -> str:
    """An opaque cursor that continues list `kind` after `place`."""
    return base64.urlsafe_b64encode(f"{kind}:{place}".encode()).decode().rstrip("=")


def decode_cursor(kind: str, cursor: str) -> str:
    """The place in a cursor of list `kind`; an empty cursor gives an empty place.

    Raises RefusedError CURSOR_INVALID for anything this API did not hand out for that list.
    """
    if not cursor:
        return ""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found, _, place = text.decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise RefusedError("CURSOR_INVALID", "not a cursor of this API", "cursor") from error
    if found != kind or not place:
        raise RefusedError("CURSOR_INVALID", f"not a cursor of {kind}", "cursor")
    return place


def decode_number(kind: str, cursor: str, first: int) -> int:
    """The number in a cursor of list `kind`; `first` for an empty cursor."""
    place = decode_cursor(kind, cursor)
    if not place:
        return first
    if not (place.isascii() and place.isdigit()) or len(place) > 19 or int(place) > INT64_MAX:
        raise RefusedError("CURSOR_INVALID", f"not a cursor of {kind}", "cursor")
    return int(place)


def slice_after(ids: Sequence[str], after: str, limit: int) -> tuple[Sequence[str], str | None]:
    """The next `limit` of sorted `ids` after `after`, and the id to go on after, if any."""
    rest = [item for item in ids if item > after]
    chosen = rest[:limit]
    return chosen, chosen[-1] if len(rest) > limit else None


async def idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            description="The caller's key of this wish: 1 to 128 printable ASCII characters "
            "without spaces. The same key and body again give the stored answer.",
        ),
    ] = None,
) -> str:
    """The Idempotency-Key header, which money and switching need.

    Raises RefusedError IDEMPOTENCY_KEY_MISSING or IDEMPOTENCY_KEY_INVALID.
    """
    if idempotency_key is None:
        raise RefusedError(
            "IDEMPOTENCY_KEY_MISSING",
            "send an Idempotency-Key header, so that a repeat is harmless",
            "header.idempotency-key",
        )
    if not KEY_PATTERN.fullmatch(idempotency_key):
        raise RefusedError(
            "IDEMPOTENCY_KEY_INVALID",
            "the key has 1 to 128 printable ASCII characters without spaces",
            "header.idempotency-key",
        )
    return idempotency_key


Key = Annotated[str, Depends(idempotency_key)]


def entity_tag(*parts: object) -> str:
    """A strong ETag of what identifies one state of a resource."""
    text = "\x1f".join(str(part) for part in parts)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'


def check_if_match(request: Request, current_tag: str | None) -> None:
    """Refuse a change based on an older state (If-Match), where the caller asked for that.

    Raises RefusedError PRECONDITION_FAILED.
    """
    wanted = request.headers.get("if-match")
    if wanted is None:
        return
    tags = {tag.strip() for tag in wanted.split(",")}
    if current_tag is None or not ("*" in tags or current_tag in tags):
        raise RefusedError(
            "PRECONDITION_FAILED", "it has changed since; read it again", "header.if-match"
        )


def is_unchanged(request: Request, current_tag: str) -> bool:
    """Whether the caller holds this state already (If-None-Match): answer 304."""
    known = request.headers.get("if-none-match", "")
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    return "*" in tags or current_tag in tags
