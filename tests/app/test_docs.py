"""Documentation is a contract: what a key or a code means stands there, and nothing else does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from gateway.app.config import load_config
from gateway.app.config_model import ConfigurationFile
from gateway.app.config_print import json_schema, key_paths, reference_table
from gateway.app.config_yaml import as_values, read_document
from gateway.core.money import Currency
from gateway.core.tariff_document import tariff_from_document
from gateway.north.http.problems import CODE_BY_STATUS

ROOT = Path(__file__).parent.parent.parent
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def code_of(node: ast.AST | None) -> Iterator[str]:
    """The code that an expression is, if it is one."""
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CODE.fullmatch(node.value)
    ):
        yield node.value


def raised_codes(tree: ast.AST) -> Iterator[str]:
    """Codes given to an error, a table of codes, a problem or an outcome, and those of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            ends = any(ast.unparse(value).startswith("OutcomeStatus.") for value in given)
            if name.endswith(("Error", "problem_response")):
                given = given[:1]
            elif not name.endswith("Codes") and not ends:
                continue
            for value in given:
                yield from code_of(value)
        elif isinstance(node, ast.ClassDef):
            yield from class_code(node)


def class_code(node: ast.ClassDef) -> Iterator[str]:
    """The `code` attribute of an error class."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            target = ast.unparse(statement.targets[0])
        elif isinstance(statement, ast.AnnAssign):
            target = ast.unparse(statement.target)
        else:
            continue
        if target == "code":
            yield from code_of(statement.value)


def documented_codes() -> set[str]:
    """First column of the tables in docs/errors.md."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z0-9_]+)` \|", text, re.MULTILINE))


def test_every_key_is_documented_with_its_default() -> None:
    """The table in docs/configuration.md is the program's own (`config reference` prints it)."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = text.partition("<!-- keys -->\n")[2].partition("<!-- /keys -->")[0]
    assert table == reference_table()


def test_every_key_says_what_it_means() -> None:
    """A key without a description would be an empty row."""
    keys = list(key_paths(ConfigurationFile))
    assert [path for path, _, field in keys if not (field.description or "").strip()] == []
    assert {"site.id", "meters[].host", "defaults.<model>.port", "north.mqtt[].tls.ca"} <= {
        path for path, _, _ in keys
    }


@pytest.mark.slow
def test_every_error_code_is_documented() -> None:
    """A code that the source raises stands in docs/errors.md."""
    raised = set(CODE_BY_STATUS.values())
    for path in (ROOT / "gateway").rglob("*.py"):
        raised.update(raised_codes(ast.parse(path.read_text(encoding="utf-8"))))
    missing = sorted(raised - documented_codes())
    assert not missing, f"add to docs/errors.md: {', '.join(missing)}"


def test_every_documented_error_code_exists() -> None:
    """A code in docs/errors.md still stands in the source."""
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "gateway").rglob("*.py"))
    gone = sorted(code for code in documented_codes() if f'"{code}"' not in source)
    assert not gone, f"no longer raised, remove from docs/errors.md: {', '.join(gone)}"


def test_a_planted_code_is_found() -> None:
    """The search sees each way in which a code enters the source."""
    planted = """
class NewError(MeterError):
    code: ClassVar[str] = "NEW_CLASS"
class OtherError(MeterError):
    code = "OTHER_CLASS"
def f():
    raise RefusedError(
        "REFUSED", f"text {1}", "place")
    problem_response("ANSWERED", "text")
    DecimalCodes("amount", "FORM", "FINE", "LARGE")
    self._close(request, OutcomeStatus.EXPIRED, "ENDED", "too late")
    event("NO_ERROR")
"""
    assert set(raised_codes(ast.parse(planted))) == {
        "NEW_CLASS",
        "OTHER_CLASS",
        "REFUSED",
        "ANSWERED",
        "FORM",
        "FINE",
        "LARGE",
        "ENDED",
    }


def test_the_sample_site_is_good_and_fits_the_schema() -> None:
    """config/config.yaml loads with its CSV, and an editor finds nothing to mark in it."""
    sample = ROOT / "config" / "config.yaml"
    config = load_config(sample)
    assert [meter.meter_id for meter in config.meters] == [
        "flat-101",
        "lift",
        "flat-102",
        "flat-103",
        "shop-1",
    ]
    assert config.notes == ()
    schema = jsonschema_rs.validator_for(json_schema())
    schema.validate(yaml.safe_load(sample.read_text(encoding="utf-8")))


def test_the_sample_tariff_is_good() -> None:
    """config/tariff.yaml is a tariff in the sample site's currency."""
    config = load_config(ROOT / "config" / "config.yaml")
    document = as_values(read_document(ROOT / "config" / "tariff.yaml").root)
    assert isinstance(document, dict)
    currency = Currency(config.site.currency, config.site.money_scale, config.site.minor_digits)
    assert tariff_from_document(document, currency).tariff_id == "home"
