"""Values of SQLite columns, checked and typed; JSON columns to and from tuples."""

import json
from collections.abc import Iterable
from typing import Final

from gateway.core.errors import StoreCorruptError
from gateway.core.ledger import canonical_json

PAGE_MAX: Final = 100
_DECODER: Final = json.JSONDecoder()


def page_size(limit: int) -> int:
    """A page between 1 and 100 rows (contract.md, North: HTTP)."""
    return max(1, min(limit, PAGE_MAX))


def document(value: object) -> str:
    """A JSON column: canonical, so that equal values are equal texts."""
    return canonical_json(value).decode()


def as_int(value: object) -> int:
    """An INTEGER column. Raises StoreCorruptError for anything else."""
    if isinstance(value, int):
        return value
    raise StoreCorruptError(f"expected an integer, found {value!r:.40}")


def as_text(value: object) -> str:
    """A TEXT column. Raises StoreCorruptError for anything else."""
    if isinstance(value, str):
        return value
    raise StoreCorruptError(f"expected text, found {value!r:.40}")


def as_bytes(value: object) -> bytes:
    """A BLOB column. Raises StoreCorruptError for anything else."""
    if isinstance(value, bytes):
        return value
    raise StoreCorruptError(f"expected bytes, found {value!r:.40}")


def parsed(column: object) -> object:
    """The JSON value of a TEXT column. Raises StoreCorruptError when it is none."""
    text = as_text(column)
    try:
        # As it was written there is nothing around the value; looking for that first takes
        # twice as long as the short values of a settlement line.
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreCorruptError(f"expected JSON, found {column!r:.40}") from error
    found: object = value
    return found


def mapping(column: object) -> dict[str, object]:
    """A JSON object. Raises StoreCorruptError for anything else."""
    value = parsed(column)
    if isinstance(value, dict):
        return value
    raise StoreCorruptError(f"expected a JSON object, found {column!r:.40}")


def items(column: object) -> list[object]:
    """A JSON list. Raises StoreCorruptError for anything else."""
    value = parsed(column)
    if isinstance(value, list):
        return value
    raise StoreCorruptError(f"expected a JSON list, found {column!r:.40}")


def integers(column: object) -> tuple[int, ...]:
    """A JSON list of integers."""
    return tuple(as_int(item) for item in items(column))


def texts(column: object) -> tuple[str, ...]:
    """A JSON list of texts."""
    return tuple(as_text(item) for item in items(column))


def integers_of(column: object) -> tuple[tuple[str, int], ...]:
    """A JSON object of integers, as pairs sorted by name."""
    return tuple((name, as_int(value)) for name, value in sorted(mapping(column).items()))


def text_pairs(column: object) -> tuple[tuple[str, str], ...]:
    """A JSON object of texts, as pairs sorted by name."""
    return tuple((name, as_text(value)) for name, value in sorted(mapping(column).items()))


def names_of(entries: Iterable[tuple[str, object]]) -> list[str]:
    """The names of named values."""
    return [name for name, _ in entries]
