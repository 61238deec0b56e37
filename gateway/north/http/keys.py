"""API keys: bearer tokens for people and programs, made and revoked by the administrator."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.core.requests import Role
from gateway.north.http.auth import MAX_LABEL, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    PAGE_DEFAULT,
    PREFIX,
    Cursor,
    Form,
    Limit,
    Page,
    decode_cursor,
    encode_cursor,
    rfc3339,
    rfc3339_or_none,
    slice_after,
)
from gateway.north.http.results import model_response
from gateway.north.tokens import create_token, revoke
from gateway.store.tokens import ApiToken

router = APIRouter(tags=["people"])

ADMIN: Final = frozenset({Role.ADMIN})
MAX_DAYS: Final = 3660
KeyId = Annotated[str, Path(min_length=1, max_length=26, pattern="^[0-9A-Z]{26}$")]


class ApiKeyForm(Form):
    """Whom a new key is for and what it may."""

    label: str = Field(min_length=1, max_length=MAX_LABEL)
    role: Role
    days: int | None = Field(default=None, ge=1, le=MAX_DAYS, description="Valid so long")


class ApiKeyView(BaseModel):
    """A key, without its secret."""

    id: str
    label: str
    role: Role
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewApiKey(ApiKeyView):
    """A key with its secret, shown this once."""

    token: str


class ApiKeyPage(Page):
    """Keys, oldest first."""

    items: list[ApiKeyView]


@router.get(f"{PREFIX}/api-keys", response_model=ApiKeyPage, **access(ADMIN))
async def list_api_keys(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> ApiKeyPage:
    """Every key ever made, revoked ones too."""
    tokens = {token.token_id: token for token in context_of(request).tokens.all()}
    chosen, last = slice_after(list(tokens), decode_cursor("api-keys", cursor), limit)
    return ApiKeyPage(
        items=[_view(tokens[token_id]) for token_id in chosen],
        next_cursor=None if last is None else encode_cursor("api-keys", last),
    )


@router.post(f"{PREFIX}/api-keys", status_code=201, response_model=NewApiKey, **access(ADMIN))
async def create_api_key(request: Request, form: ApiKeyForm) -> Response:
    """Make a key. Its secret is in this answer and nowhere else."""
    token, secret = await create_token(
        context_of(request),
        label=form.label,
        role=form.role,
        hours=None if form.days is None else 24 * form.days,
    )
    shown = NewApiKey(token=secret, **_view(token).model_dump())
    return model_response(shown, 201, {"location": f"{PREFIX}/api-keys"})


@router.delete(f"{PREFIX}/api-keys/{{key_id}}", response_model=ApiKeyView, **access(ADMIN))
async def revoke_api_key(request: Request, key_id: KeyId) -> Response:
    """Revoke a key at once; harmless when repeated."""
    return model_response(_view(await revoke(context_of(request), key_id)))


def _view(token: ApiToken) -> ApiKeyView:
    return ApiKeyView(
        id=token.token_id,
        label=token.label,
        role=token.role,
        created_at=rfc3339(token.created_utc_ms),
        expires_at=rfc3339_or_none(token.expires_utc_ms),
        revoked_at=rfc3339_or_none(token.revoked_utc_ms),
    )
