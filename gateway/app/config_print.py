"""The configuration shown: in force as a document, its form as JSON Schema and as a table."""

from collections.abc import Iterator, Mapping
from typing import Final, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.app.config import NODE_SETTINGS, Config, MeterConfig
from gateway.app.config_model import ConfigurationFile, MeterEntry, MeterSettings
from gateway.app.config_problems import section_of
from gateway.app.config_section import Section

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def as_document(config: Config) -> dict[str, object]:
    """What is in force, in the form of the file: every default filled in, CSV meters included.

    Secrets are file references and stay such.
    """
    sections: dict[str, Section] = {
        "south": config.south,
        "north": config.north,
        "supply": config.supply,
        "posting": config.posting,
        "telemetry": config.telemetry,
        "backup": config.backup,
        "counter": config.counter,
        "watch": config.watch,
        "vouchers": config.vouchers,
    }
    nodes = [
        {
            "id": node.meter_id,
            "model": node.model,
            "label": node.label,
            "feeder": node.feeder,
            "service_point": node.service_point_id,
            "account": node.account_id,
            "critical": node.critical,
            "device": node.device or None,
            "priority": node.priority,
            **node.settings.model_dump(mode="json", include=set(NODE_SETTINGS)),
        }
        for node in config.nodes
    ]
    return {
        "site": config.site.model_dump(mode="json"),
        "state_dir": str(config.state_dir),
        "runtime_dir": str(config.runtime_dir),
        "create": config.create,
        "meters": [_meter(meter) for meter in config.meters] + nodes,
        "feeders": [feeder.model_dump(mode="json") for feeder in config.feeders],
        **{name: section.model_dump(mode="json") for name, section in sections.items()},
    }


def _meter(meter: MeterConfig) -> dict[str, object]:
    return {
        "id": meter.meter_id,
        "model": meter.model,
        "host": meter.host,
        "serial_number": meter.serial_number,
        "label": meter.label,
        "feeder": meter.feeder,
        "service_point": meter.service_point_id,
        "account": meter.account_id,
        "critical": meter.critical,
        "role": meter.role,
        "priority": meter.priority,
        **meter.settings.model_dump(mode="json"),
    }


def as_yaml(document: Mapping[str, object]) -> str:
    """A document as YAML that `load_config` reads back to the same configuration."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100)


def json_schema() -> dict[str, object]:
    """The JSON Schema of the YAML file.

    A meter's settings state no default there: what is not given comes from `defaults`.
    """
    schema = ConfigurationFile.model_json_schema()
    properties = schema["$defs"][MeterEntry.__name__]["properties"]
    for name in MeterSettings.model_fields:
        properties[name].pop("default", None)
    return {"$schema": SCHEMA_DIALECT, **schema}


def reference_table() -> str:
    """Every key with default and meaning, as a Markdown table."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{path}` | {default} | {field.description} |"
        for path, default, field in key_paths(ConfigurationFile)
    ]
    return "\n".join(lines) + "\n"


def key_paths(section: type[BaseModel], above: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """Every key that holds a value: its path in the file, its default in words, its field."""
    shared = MeterSettings.model_fields if section is MeterEntry else {}
    # What is a meter's own comes before what it shares with its model.
    for name, field in sorted(section.model_fields.items(), key=lambda item: item[0] in shared):
        below = section_of(field.annotation)
        if below is None:
            yield above + name, "as `defaults`" if name in shared else _default(field), field
        elif get_origin(field.annotation) is tuple:
            yield from key_paths(below, f"{above}{name}[].")
        elif get_origin(field.annotation) is dict:
            yield from key_paths(below, f"{above}{name}.<model>.")
        else:
            yield from key_paths(below, f"{above}{name}.")


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default not in ("", ()) else "empty"
