"""One file per meter model: what to read, how it switches, how it identifies itself.

A model is found by its file: `pac3220.py` holds `MODEL`, whose name is "pac3220".
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from gateway.south.registers import MeterModel


@cache
def model_names() -> tuple[str, ...]:
    """Names of all models, sorted."""
    return tuple(sorted(found.name for found in iter_modules(__path__)))


@cache
def meter_model(name: str) -> MeterModel:
    """The model called `name`, checked.

    Raises ValueError when there is no such file, or when its content contradicts itself.
    """
    if name not in model_names():
        raise ValueError(f"unknown meter model {name!r}: there are {', '.join(model_names())}")
    model = import_module(f"{__name__}.{name}").MODEL
    if not isinstance(model, MeterModel) or model.name != name:
        raise ValueError(f"{name}.py: MODEL is no MeterModel of that name")
    return model
