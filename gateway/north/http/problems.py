"""RFC 9457 problems: the one place that turns refusals and failures into HTTP answers."""

import http
from collections.abc import Mapping
from typing import Final

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from ulid import ULID

from gateway.core.errors import RefusedError, Retry, StoreAwayError, StoreError
from gateway.core.tariff_document import TariffProblemsError
from gateway.north.http.denied import note_refusal
from gateway.north.http.forms import EXPECTED
from gateway.north.wishes import AnsweredError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
MAX_ERRORS: Final = 20

_log = structlog.get_logger("gateway.north.http")

# A refusal of a rule on a well-formed request is 422 unless its code is listed here or ends like a
# code in SUFFIX_STATUS. The form of a request (types, headers, cursors) is 400; what the present
# state does not allow, and another time it may, is 409.
STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "VALIDATION": 400,
    "REQUEST_TYPE": 400,
    "REQUEST_FIELD": 400,
    "IDEMPOTENCY_KEY_MISSING": 400,
    "IDEMPOTENCY_KEY_INVALID": 400,
    "CURSOR_INVALID": 400,
    "REASON_MISSING": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "ACCOUNT_UNKNOWN": 404,
    "COMMAND_UNKNOWN": 404,
    "DEBT_UNKNOWN": 404,
    "DEVICE_UNKNOWN": 404,
    "IMAGE_UNKNOWN": 404,
    "ROLLOUT_UNKNOWN": 404,
    "DRAFT_UNKNOWN": 404,
    "METER_UNKNOWN": 404,
    "POINT_UNKNOWN": 404,
    "REQUEST_UNKNOWN": 404,
    "TARIFF_UNKNOWN": 404,
    "FEEDER_UNKNOWN": 404,
    "OVERRIDE_UNKNOWN": 404,
    "TOKEN_UNKNOWN": 404,
    "TRANSACTION_UNKNOWN": 404,
    "METHOD_NOT_ALLOWED": 405,
    "IDEMPOTENCY_CONFLICT": 409,
    "CREDIT_SHORT": 409,
    "EMERGENCY_INVOKED": 409,
    "EMERGENCY_NOT_OFFERED": 409,
    "EMERGENCY_NOT_SELECTABLE": 409,
    "LAST_POINT": 409,
    "NOTHING_OVERDUE": 409,
    "NOT_CREDIT_MODE": 409,
    "POINT_FREE": 409,
    "REFUND_MISSING": 409,
    "SAME_TARIFF": 409,
    "RISE_GREW": 409,
    "MIN_OFF_TIME": 409,
    "NO_BASELINE": 409,
    "NOTHING_HELD": 409,
    "NOTHING_SETTLED": 409,
    "NO_ACCOUNTS": 409,
    "NOTHING_TO_CONFIRM": 409,
    "NOT_DISCONNECTED": 409,
    "NOT_ENFORCED": 409,
    "NOT_HALTED": 409,
    "NOT_LOCKED": 409,
    "NO_SHED": 409,
    "OVERRIDES_FULL": 409,
    "NO_RECOVERY": 409,
    "RENUMBERED": 409,
    "NOT_REVERSIBLE": 409,
    "SAME_PERSON": 409,
    "SUPPLY_BLOCKED": 409,
    "CONFLICT": 409,
    "ALREADY_REVERSED": 409,
    "ACCOUNT_CLOSED": 409,
    "METER_ASSIGNED": 409,
    "METER_AWAY": 409,
    "FEED_IN_HELD": 409,
    "CLOCK_UNTRUSTED": 409,
    "METER_UNASSIGNED": 409,
    "TARIFF_VERSION": 409,
    "PRECONDITION_FAILED": 412,
    "BODY_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "INTERNAL": 500,
    "STORE": 503,
    "STORE_AWAY": 503,
    "STORE_BUSY": 503,
    "BUSY": 503,
    "REPLAY_BUSY": 503,
    "REPLAY_FAILED": 503,
    "REPLAY_TIMEOUT": 503,
    "CONTROL_AWAY": 503,
    "REQUEST_EXPIRED": 409,
    "PERIOD_INVALID": 400,
    "PERIOD_UNKNOWN": 404,
    "NO_RECEIPT": 404,
    "EXPIRED": 409,
    "SHIFT_UNKNOWN": 404,
    "SHIFT_OTHERS": 403,
    "SHIFT_OPEN": 409,
    "SHIFT_CLOSED": 409,
    "SHIFT_REQUIRED": 409,
    "PAYMENT_KNOWN": 409,
    "DAILY_LIMIT": 409,
    "VOUCHER_FORMAT": 400,
    "VOUCHER_UNKNOWN": 404,
    "DEVICE_CONFIGURED": 409,
    "DEVICE_TAKEN": 409,
    "DEVICE_NOT_APPROVED": 409,
    "DEVICE_AWAY": 409,
    "DEVICE_SILENT": 409,
    "NODE_REFUSED": 409,
    "SETTING_UNKNOWN": 400,
    "SETTING_RANGE": 400,
    "SETTINGS_DOCUMENT": 400,
    "DEVICE_IN_ROLLOUT": 409,
    "IMAGE_IN_USE": 409,
    "IMAGE_KEYS_MISSING": 409,
    "IMAGE_MISSING": 409,
    "IMAGE_VERSION": 409,
    "IMAGES_FULL": 409,
    "ROLLOUT_EMPTY": 409,
    "ROLLOUT_STATE": 409,
    "ROLLOUTS_FULL": 409,
    "VOUCHER_ACCOUNT": 409,
    "VOUCHER_CANCELLED": 409,
    "VOUCHER_KEY": 409,
    "VOUCHER_LOCKED": 409,
    "VOUCHER_NOT_LOCKED": 409,
    "VOUCHER_RECOVERY": 409,
    "VOUCHER_REDEEMED": 409,
}
SUFFIX_STATUS: Final[tuple[tuple[str, int], ...]] = (
    ("_NOT_FOUND", 404),
    ("_EXISTS", 409),
    ("_CONFLICT", 409),
    ("_ALREADY", 409),
    ("_TAKEN", 409),
)
CODE_BY_STATUS: Final[Mapping[int, str]] = {
    400: "VALIDATION",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "BODY_TOO_LARGE",
    429: "RATE_LIMITED",
    503: "BUSY",
}


class ProblemPlace(BaseModel):
    """One field that is wrong."""

    place: str = Field(description="Where: `body.amount`, `query.limit`, …")
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 writes it; `code` is stable and documented."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="URN of the kind of problem")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    code: str
    retry: Retry = Field(description="Whether the same call may succeed later")
    place: str | None = None
    errors: list[ProblemPlace] | None = None


def status_of(code: str) -> int:
    """HTTP status of a refusal's code: the table, then the suffixes, then 422."""
    status = STATUS_BY_CODE.get(code)
    if status is not None:
        return status
    for suffix, suffix_status in SUFFIX_STATUS:
        if code.endswith(suffix):
            return suffix_status
    return 422


def problem_response(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    retry: Retry = Retry.NEVER,
    place: str = "",
    errors: tuple[ProblemPlace, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document. 401 names the scheme, 429 and 503 say when to come again."""
    final_status = status if status is not None else status_of(code)
    sent = {"cache-control": "no-store", **(headers or {})}
    if final_status == http.HTTPStatus.UNAUTHORIZED:
        sent.setdefault("www-authenticate", 'Bearer realm="prepaid-gateway"')
    if final_status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
        sent.setdefault("retry-after", str(RETRY_AFTER_S))
    problem = Problem(
        type=f"urn:prepaid-gateway:problem:{code.lower().replace('_', '-')}",
        title=http.HTTPStatus(final_status).phrase,
        status=final_status,
        detail=_printable(detail),
        code=code,
        retry=retry,
        place=_printable(place) or None,
        errors=list(errors) or None,
    )
    body = orjson.dumps(problem.model_dump(mode="json", exclude_none=True))
    return Response(body, status_code=final_status, headers=sent, media_type=MEDIA_TYPE)


def refusal_response(error: RefusedError) -> Response:
    """The problem of a refusal, by the one table above."""
    status = status_of(error.refusal_code)
    busy = status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE)
    retry = Retry.BACKOFF if busy else error.retry
    detail = error.message
    places: tuple[ProblemPlace, ...] = ()
    if isinstance(error, TariffProblemsError):
        detail = "the document is no tariff"
        places = tuple(
            ProblemPlace(place=_printable(found.place), message=_printable(found.message))
            for found in error.problems[:MAX_ERRORS]
        )
    return problem_response(
        error.refusal_code,
        detail,
        retry=retry,
        place=error.place,
        errors=places,
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(RefusedError, _on_refused)
    app.add_exception_handler(StoreError, _on_store)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unexpected)


def _printable(text: str) -> str:
    # Callers' field names may hold lone surrogates, which are no UTF-8.
    return text.encode("utf-8", "replace").decode()


async def _on_refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    if not isinstance(error, AnsweredError):
        code = error.refusal_code
        note_refusal(request, code, status_of(code), error.place)
    return refusal_response(error)


async def _on_store(_request: Request, error: Exception) -> Response:
    if not isinstance(error, StoreError):
        raise error
    if isinstance(error, StoreAwayError):
        detail = "the gateway's records cannot be read right now"
    elif error.retry is Retry.BACKOFF:
        detail = "the gateway's store is too busy"
    else:
        _log.error("store failed", code=error.code, detail=str(error))
        detail = "a store of the gateway fails"
    # What is wrong with a file is for the log; a caller is told that it is no fault of the call.
    return problem_response(error.code, detail, status=503, retry=error.retry)


async def _on_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    # The input itself is not echoed: it may hold secrets or bytes that are no text.
    places = tuple(
        ProblemPlace(
            place=_printable(".".join(str(part) for part in item["loc"])),
            message=_printable(EXPECTED.get(_pattern_of(item), str(item["msg"]))),
        )
        for item in error.errors()[:MAX_ERRORS]
    )
    note_refusal(request, "VALIDATION", status_of("VALIDATION"), places[0].place if places else "")
    return problem_response("VALIDATION", "the request is not well-formed", errors=places)


def _pattern_of(item: Mapping[str, object]) -> str:
    """The expression that a text should have matched; empty for any other problem."""
    context = item.get("ctx")
    return str(context.get("pattern", "")) if isinstance(context, Mapping) else ""


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = CODE_BY_STATUS.get(error.status_code, "VALIDATION")
    note_refusal(request, code, error.status_code, "")
    return problem_response(
        code, str(error.detail), status=error.status_code, headers=error.headers
    )


async def _on_unexpected(_request: Request, error: Exception) -> Response:
    incident = str(ULID())
    # Starlette raises the error on, and uvicorn logs it once: with its traceback and this number.
    error.add_note(f"incident {incident}")
    detail = f"the gateway failed; its log says more under incident {incident}"
    return problem_response("INTERNAL", detail, status=500)
