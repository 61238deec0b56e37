"""Meters and what they measure now."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.reading import Quality
from gateway.north.context import ControlState, MeterEntry, NorthContext
from gateway.north.http.auth import VIEWERS, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    ID_EXPRESSION,
    PAGE_DEFAULT,
    PREFIX,
    Cursor,
    Limit,
    Page,
    decode_cursor,
    encode_cursor,
    rfc3339,
    slice_after,
)
from gateway.north.http.supply_view import SupplyView, supply_view
from gateway.north.live import MeterNow

router = APIRouter(tags=["meters"])

MeterId = Annotated[str, Path(pattern=ID_EXPRESSION, max_length=63)]
MAX_NAMES: Final = 64


class MeterView(BaseModel):
    """A meter, how fresh its last reading is, and the supply behind it."""

    id: str
    label: str
    model: str
    feeder: str
    service_point_id: str
    account_id: str
    commissioned: bool | None = Field(
        description="Whether supply is enforced at this point; null while the ledger is away"
    )
    quality: Quality = Field(description="Of the last reading, by its age too")
    control: ControlState = Field(description="Whether control, which reads meters, is there")
    last_reading_at: str | None
    power_w: float | None
    energy_wh: int | None = Field(description="Sum of the import registers")
    supply: SupplyView | None


class MeterPage(Page):
    """Meters by id."""

    items: list[MeterView]


class Measurement(BaseModel):
    """Everything a meter's last reading said. Undefined values are null."""

    meter_id: str
    quality: Quality
    control: ControlState
    at: str | None = Field(description="When the registers were read")
    values_at: str | None = Field(description="When the values were read")
    sequence: int | None
    energy_wh: int | None
    energy_register_wh: list[int] = Field(description="Import registers (PAC3220: T1, T2)")
    values: dict[str, float | None] = Field(description="By standard name")
    units: dict[str, str]


class Columns(BaseModel):
    """The last readings of all meters by column; every list is in the order of `meter_ids`."""

    at: str
    control: ControlState
    meter_ids: list[str]
    quality: list[Quality]
    reading_at: list[str | None]
    energy_wh: list[int | None]
    power_w: list[float | None]
    values: dict[str, list[float | None]]
    units: dict[str, str]


@router.get(f"{PREFIX}/meters", response_model=MeterPage, **access(VIEWERS))
async def list_meters(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> MeterPage:
    """Meters in the order of their ids."""
    context = context_of(request)
    commissioned = await _commissioned(context)
    ids, last = slice_after(context.meter_ids, decode_cursor("meters", cursor), limit)
    return MeterPage(
        items=[_view(context, context.entries[meter_id], commissioned) for meter_id in ids],
        next_cursor=None if last is None else encode_cursor("meters", last),
    )


@router.get(f"{PREFIX}/meters/{{meter_id}}", response_model=MeterView, **access(VIEWERS))
async def show_meter(request: Request, meter_id: MeterId) -> MeterView:
    """One meter."""
    context = context_of(request)
    return _view(context, entry_of(context, meter_id), await _commissioned(context))


@router.get(
    f"{PREFIX}/meters/{{meter_id}}/measurements/latest",
    response_model=Measurement,
    **access(VIEWERS),
)
async def latest_of_meter(request: Request, meter_id: MeterId) -> Response:
    """All values of one meter's last reading, with quality and unit."""
    context = context_of(request)
    entry = entry_of(context, meter_id)
    now = context.live.now(meter_id)
    away = context.control_away()
    row = None if now is None else now.row
    names = () if now is None else now.value_names
    return _json(
        {
            "meter_id": meter_id,
            "quality": context.quality_of(entry, now, away=away),
            "control": context.control_state(),
            "at": None if row is None else rfc3339(row.utc_ms),
            "values_at": None if row is None else rfc3339(row.values_utc_ms),
            "sequence": None if row is None else row.sequence,
            "energy_wh": None if row is None else sum(row.energy_wh),
            "energy_register_wh": [] if row is None else row.energy_wh,
            "values": {} if row is None else dict(zip(names, row.values, strict=True)),
            "units": _units(entry.units, names),
        }
    )


@router.get(f"{PREFIX}/measurements/latest", response_model=Columns, **access(VIEWERS))
async def latest_of_all(
    request: Request,
    names: Annotated[
        str, Query(max_length=4000, description="Standard names, separated by commas; empty: all")
    ] = "",
) -> Response:
    """The last readings of all meters, by column: one request draws a whole site."""
    context = context_of(request)
    wanted = [name for name in names.split(",") if name]
    if len(wanted) > MAX_NAMES:
        raise RefusedError("VALIDATION", f"at most {MAX_NAMES} names", "query.names")
    entries = [context.entries[meter_id] for meter_id in context.meter_ids]
    seen = [context.live.now(entry.meter_id) for entry in entries]
    away = context.control_away()
    units: dict[str, str] = {}
    for entry in entries:
        units.update(entry.units)
    columns = _columns(seen, wanted)
    return _json(
        {
            "at": rfc3339(context.clock.utc_ms()),
            "control": context.control_state(),
            "meter_ids": context.meter_ids,
            "quality": [
                context.quality_of(entry, now, away=away)
                for entry, now in zip(entries, seen, strict=True)
            ],
            "reading_at": [None if now is None else rfc3339(now.row.utc_ms) for now in seen],
            "energy_wh": [None if now is None else sum(now.row.energy_wh) for now in seen],
            "power_w": [None if now is None else now.row.power_w for now in seen],
            "values": columns,
            "units": _units(units, tuple(columns)),
        }
    )


def entry_of(context: NorthContext, meter_id: str) -> MeterEntry:
    """A meter of the configuration.

    Raises RefusedError METER_UNKNOWN.
    """
    entry = context.entries.get(meter_id)
    if entry is None:
        raise RefusedError("METER_UNKNOWN", f"there is no meter {meter_id!r}")
    return entry


async def _commissioned(context: NorthContext) -> dict[str, bool]:
    """By service point, whether supply is enforced; empty while the ledger cannot be read."""
    try:
        return await context.records.commissioned_points()
    except StoreAwayError:
        return {}


def _view(context: NorthContext, entry: MeterEntry, commissioned: Mapping[str, bool]) -> MeterView:
    now = context.live.now(entry.meter_id)
    row = None if now is None else now.row
    return MeterView(
        id=entry.meter_id,
        label=entry.label,
        model=entry.model,
        feeder=entry.feeder,
        service_point_id=entry.service_point_id,
        account_id=entry.account_id,
        commissioned=commissioned.get(entry.service_point_id),
        quality=context.quality_of(entry, now, away=context.control_away()),
        control=context.control_state(),
        last_reading_at=None if row is None else rfc3339(row.utc_ms),
        power_w=None if row is None else row.power_w,
        energy_wh=None if row is None else sum(row.energy_wh),
        supply=None if row is None else supply_view(row),
    )


def _columns(seen: Sequence[MeterNow | None], wanted: list[str]) -> dict[str, list[float | None]]:
    # Meters of different models have different values: what one lacks is null in its place.
    names = wanted or sorted({name for now in seen if now is not None for name in now.value_names})
    columns: dict[str, list[float | None]] = {name: [None] * len(seen) for name in names}
    for place, now in enumerate(seen):
        if now is not None:
            for name, value in zip(now.value_names, now.row.values, strict=True):
                if name in columns:
                    columns[name][place] = value
    return columns


def _units(units: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: units[name] for name in names if name in units}


def _json(body: Mapping[str, object]) -> Response:
    # orjson writes NaN and infinity as null; a validated model would cost ten times as much.
    headers = {"cache-control": "no-store"}
    return Response(orjson.dumps(body), headers=headers, media_type="application/json")
