"""How outcomes and amounts look outside: decimal money beside its currency, RFC 3339 time."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

import orjson
from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

from gateway.core.money import Currency, format_amount
from gateway.core.requests import Outcome, OutcomeStatus
from gateway.north.http.forms import PREFIX, rfc3339
from gateway.north.wishes import Answer, AnsweredError

PENDING: Final = "pending"


class RequestStatus(BaseModel):
    """A wish and what became of it."""

    key: str = Field(description="The caller's idempotency key")
    type: str
    state: str = Field(description="pending, executed, refused or expired")
    code: str | None = Field(default=None, description="Why it was refused")
    message: str | None = None
    place: str | None = Field(default=None, description="The field that the refusal is about")
    result: dict[str, JsonValue] | None = Field(default=None, description="What its effect was")
    finished_at: str | None = None


def money(amount_nano: int, currency: Currency) -> str:
    """The exact amount as decimal text in major units."""
    return format_amount(amount_nano, currency)


def public_result(result: Mapping[str, object], currency: Currency) -> dict[str, JsonValue]:
    """An outcome's result with `…_nano` as decimal `…` beside `currency`, `…_utc_ms` as `…_at`."""
    shown: dict[str, JsonValue] = {}
    has_money = False
    for name, value in result.items():
        if name.endswith("_nano") and isinstance(value, int):
            shown[name.removesuffix("_nano")] = money(value, currency)
            has_money = True
        elif name.endswith("_utc_ms") and isinstance(value, int):
            shown[name.removesuffix("_utc_ms") + "_at"] = rfc3339(value)
        else:
            shown[name] = _public_value(value, currency)
    if has_money:
        shown["currency"] = currency.code
    return shown


def request_location(key: str) -> str:
    """Where to ask for a wish again."""
    return f"{PREFIX}/requests/{quote(key, safe='')}"


def command_location(command_id: str) -> str:
    """Where to follow a command."""
    return f"{PREFIX}/commands/{quote(command_id, safe='')}"


def status_of_outcome(outcome: Outcome, currency: Currency) -> RequestStatus:
    """An outcome as a resource."""
    refused = outcome.status is not OutcomeStatus.EXECUTED
    return RequestStatus(
        key=outcome.key,
        type=outcome.type,
        state=outcome.status.value,
        code=outcome.code if refused else None,
        message=outcome.message or None,
        place=outcome.place or None,
        result=public_result(outcome.result, currency),
        finished_at=rfc3339(outcome.utc_ms),
    )


def raise_unless_executed(outcome: Outcome) -> None:
    """Raise what control answered with as AnsweredError, also for an expired request."""
    if outcome.status is OutcomeStatus.EXPIRED:
        message = outcome.message or "the request expired before control could execute it"
        raise AnsweredError("REQUEST_EXPIRED", message)
    if outcome.status is OutcomeStatus.REFUSED:
        raise AnsweredError(outcome.code, outcome.message, outcome.place)


def wish_response(answer: Answer, currency: Currency) -> Response:
    """201 executed, 200 for the repeat of an executed one, 202 with a place to ask, or a problem.

    Raises RefusedError when control refused the wish.
    """
    location = {"location": request_location(answer.key)}
    if answer.outcome is None:
        waiting = RequestStatus(key=answer.key, type=answer.type, state=PENDING)
        return model_response(waiting, 202, location)
    raise_unless_executed(answer.outcome)
    status = status_of_outcome(answer.outcome, currency)
    return model_response(status, 200 if answer.repeat else 201, location)


def model_response(
    model: BaseModel, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A model as JSON, with headers."""
    body = orjson.dumps(model.model_dump(mode="json", by_alias=True))
    sent = {"cache-control": "no-store", **(headers or {})}
    return Response(body, status_code, sent, media_type="application/json")


def _public_value(value: object, currency: Currency) -> JsonValue:
    if isinstance(value, Mapping):
        return public_result({str(name): item for name, item in value.items()}, currency)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_public_value(item, currency) for item in value]
    return str(value)
