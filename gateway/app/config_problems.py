"""What pydantic found, as sentences for the person who wrote the file, at the place meant."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gateway.app.config_place import Place, Problem, Step, quote, show_path, unknown
from gateway.app.config_types import FORMS

# How pydantic marks that the key of a dict is meant, not its value.
_KEY_MARK: Final = "[key]"


@dataclass(frozen=True, slots=True)
class Finder:
    """How to find the place of a value and of a key by its path."""

    value: Callable[[Sequence[Step]], Place]
    key: Callable[[Sequence[Step]], Place]


def problems_of(
    error: ValidationError, model: type[BaseModel], finder: Finder, above: Sequence[Step] = ()
) -> Iterator[Problem]:
    """Each error of a validation of `model` as a problem.

    `above` is the path of the validated value in the file; paths and places include it.
    """
    for found in error.errors(include_url=False):
        steps = [step for step in found["loc"] if step != _KEY_MARK]
        path = [*above, *steps]
        kind = found["type"]
        if kind == "extra_forbidden":
            known = fields_at(model, steps[:-1])
            message = unknown("key", str(steps[-1]), known)
            yield Problem(finder.key(path), show_path(path), message)
        elif kind == "missing":
            field = fields_at(model, steps[:-1]).get(str(steps[-1]))
            meaning = f": {field.description}" if field and field.description else ""
            yield Problem(finder.value(path), show_path(path), f"is missing{meaning}")
        else:
            place = finder.key(path) if _KEY_MARK in found["loc"] else finder.value(path)
            yield Problem(place, show_path(path), _sentence(found))


def fields_at(model: type[BaseModel], steps: Sequence[Step]) -> Mapping[str, FieldInfo]:
    """The fields of the section at a path below `model`; empty where there is none."""
    found: type[BaseModel] | None = model
    annotation: object = model
    for step in steps:
        if found is not None and isinstance(step, str) and step in found.model_fields:
            annotation = found.model_fields[step].annotation
        # An index of a list or a key of a dict leads to the same section.
        found = section_of(annotation)
    return found.model_fields if found is not None else {}


def section_of(annotation: object) -> type[BaseModel] | None:
    """The section inside an annotation such as `Tls | None`, `tuple[Meter, ...]` or a dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Annotated, Union, UnionType, tuple, dict, list}:
        for part in get_args(annotation):
            found = section_of(part)
            if found is not None:
                return found
    return None


_WANTED: Final[Mapping[str, str]] = {
    "bool": "true or false",
    "dict": "a map of keys and values",
    "finite": "a number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a map of keys and values",
    "path": "a path",
    "string": "a text",
    "tuple": "a list",
}
_BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "string_too_short": ("min_length", "characters at least"),
    "string_too_long": ("max_length", "characters at most"),
    "too_long": ("max_length", "entries at most"),
}


def _sentence(found: ErrorDetails) -> str:
    kind: str = found["type"]
    given: Any = found["input"]
    context: Mapping[str, Any] = found.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if given is None:
        return "has no value"
    shown = _shown(given)
    if kind == "literal_error":
        return f"is {shown}: expected {context['expected']}"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"is {shown}: expected {FORMS.get(pattern, 'the form ' + pattern)}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"is {shown}: expected {words} {context[key]}"
    wanted = _WANTED.get(kind.partition("_")[0])
    return f"is {shown}: expected {wanted}" if wanted else found["msg"]


def _shown(given: object) -> str:
    if isinstance(given, Mapping):
        return "a map"
    if isinstance(given, list | tuple):
        return f"a list of {len(given)}"
    return quote(given) if isinstance(given, str) else str(given)
