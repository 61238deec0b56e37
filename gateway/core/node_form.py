"""The form of what a node says: members of a JSON object, each read exactly or refused."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from gateway.core.errors import MeterIdentityError, MeterProtocolError
from gateway.core.reading import Quality

MESSAGE_BYTES_MAX: Final = 8_192
# A thousand times what a 100 A connection takes in its life; above it a counter is no counter.
ENERGY_WH_MAX: Final = 10**12
WORDS_MAX: Final = 16
NUMBER_MAX: Final = 2**53
# Epoch seconds reach this in the year 5138: larger numbers are milliseconds.
MILLISECONDS_FROM: Final = 10**11
SESSION: Final = re.compile(r"[0-9a-f]{16}")
_WORD: Final = re.compile(r"[\x20-\x7e]{0,64}")


def object_of(payload: bytes, device_id: str) -> Mapping[str, object]:
    """The JSON object of a message.

    Raises MeterProtocolError (size, form) and MeterIdentityError (another id inside).
    """
    if len(payload) > MESSAGE_BYTES_MAX:
        raise MeterProtocolError(f"a message of {len(payload)} bytes, at most {MESSAGE_BYTES_MAX}")
    try:
        found = json.loads(payload.decode(), parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise MeterProtocolError("the message is no JSON in UTF-8") from error
    if not isinstance(found, dict):
        raise MeterProtocolError("the message is no JSON object")
    named = found.get("device_id", device_id)
    if named != device_id:
        raise MeterIdentityError(f"device_id is {named!r:.60}, the topic is of {device_id}")
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no number")


def decimal_of(name: str, value: object) -> Decimal | None:
    """A number, exactly; None where there is none. Raises MeterProtocolError, as all here do."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise MeterProtocolError(f"{name} is no number")
    found = Decimal(value)
    # Compared before anything is computed: 1e999999 is short to write.
    if not found.is_finite() or not -NUMBER_MAX <= found <= NUMBER_MAX:
        raise MeterProtocolError(f"{name} is out of range")
    return found


def number_of(found: Mapping[str, object], name: str, low: int, high: int) -> float | None:
    """A member within limits."""
    value = decimal_of(name, found.get(name))
    if value is None:
        return None
    if not low <= value <= high:
        raise MeterProtocolError(f"{name} is outside {low} to {high}")
    return float(value)


def whole_of(found: Mapping[str, object], name: str) -> int | None:
    """A whole number from 0."""
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= NUMBER_MAX:
        raise MeterProtocolError(f"{name} is no whole number from 0")
    return value


def energy_wh_of(found: Mapping[str, object]) -> int | None:
    """Cumulative Wh; where they are absent, kWh floored."""
    energy_wh = whole_of(found, "energy_wh")
    if energy_wh is None:
        energy_kwh = decimal_of("energy_kwh", found.get("energy_kwh"))
        if energy_kwh is None:
            return None
        if not 0 <= energy_kwh <= ENERGY_WH_MAX // 1_000:
            raise MeterProtocolError("energy_kwh is out of range")
        energy_wh = int(energy_kwh * 1_000)
    if energy_wh >= ENERGY_WH_MAX:
        raise MeterProtocolError("energy_wh is out of range")
    return energy_wh


def time_ms_of(value: object) -> int | None:
    """Epoch seconds, epoch milliseconds or ISO 8601 (UTC where it names no zone) as wall ms."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError as error:
            raise MeterProtocolError("the time is not ISO 8601") from error
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        since = when - datetime(1970, 1, 1, tzinfo=UTC)
        return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    given = decimal_of("the time", value)
    if given is None or given < 0:
        raise MeterProtocolError("the time lies before 1970")
    return int(given) if given >= MILLISECONDS_FROM else int(given * 1_000)


def text_of(found: Mapping[str, object], name: str) -> str:
    """A short text of printable ASCII; empty where there is none."""
    value = found.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise MeterProtocolError(f"{name} is no short text")
    return value


def session_of(found: Mapping[str, object]) -> str:
    """A session: 16 hex digits, or empty."""
    session = text_of(found, "session")
    if session and not SESSION.fullmatch(session):
        raise MeterProtocolError("session is not 16 hex digits")
    return session


def quality_of(found: Mapping[str, object]) -> Quality:
    """How far the values are to be believed; good where nothing is said."""
    given = found.get("quality", Quality.GOOD.value)
    if given not in [one.value for one in Quality]:
        raise MeterProtocolError("quality is none of good, uncertain, bad")
    return Quality(str(given))


def relay_of(found: Mapping[str, object]) -> bool | None:
    """Whether the relay is closed; None where nothing is said."""
    relay = found.get("relay")
    if relay not in (None, "closed", "open"):
        raise MeterProtocolError("relay is neither closed nor open")
    return None if relay is None else relay == "closed"


def words_of(found: Mapping[str, object], name: str) -> tuple[str, ...]:
    """A short list of short texts."""
    given = found.get(name, [])
    if not isinstance(given, list) or len(given) > WORDS_MAX:
        raise MeterProtocolError(f"{name} are no short list")
    return tuple(text_of({name: one}, name) for one in given)
