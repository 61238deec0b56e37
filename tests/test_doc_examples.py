"""Examples in the documentation are taken word for word: each has to load as it stands there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from gateway.app.tariff_file import read_tariff_file, tariff_of_file
from gateway.core.credit import CreditTerms
from gateway.core.friendly_document import calendar_from_document
from gateway.core.money import Currency
from gateway.core.tariff_presets import PRESETS, preset_of
from gateway.core.terms_document import KEYS, terms_from_document

DOCS = Path(__file__).parent.parent / "docs"
INR = Currency("INR")
ZONE = "Asia/Kolkata"
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TARIFF = """\
id: home
name: Home
currency: INR
timezone: Asia/Kolkata
effective_from: "2026-01-01"
generator: {price: "20.00"}
"""


def examples(page: str) -> list[str]:
    """The YAML examples of a page."""
    return _YAML.findall((DOCS / page).read_text(encoding="utf-8"))


def read(folder: Path, text: str) -> Mapping[str, object]:
    """What the command line makes of a file with this text."""
    path = folder / "example.yaml"
    path.write_text(text, encoding="utf-8")
    return read_tariff_file(path).content


@pytest.mark.parametrize("text", examples("credit.md"))
def test_terms_are_taken_as_the_page_shows_them(tmp_path: Path, text: str) -> None:
    """And the example has every key that terms may have, so that nobody has to guess one."""
    document = read(tmp_path, text)
    terms = terms_from_document(document, INR, ZONE)
    assert terms != CreditTerms()
    assert set(document) == set(KEYS)


@pytest.mark.parametrize("text", examples("calendars.md"))
def test_calendars_are_taken_as_the_page_shows_them(tmp_path: Path, text: str) -> None:
    """Alone, and where they belong: as friendly hours of an account's terms."""
    document = dict(read(tmp_path, text))
    alone = cast("Mapping[str, object]", document.get("friendly_hours", document))
    calendar = calendar_from_document(alone, ZONE)
    assert terms_from_document({"friendly_hours": alone}, INR, ZONE).calendar == calendar


@pytest.mark.parametrize("text", examples("tariffs.md"))
def test_parts_of_tariffs_are_taken_as_the_page_shows_them(tmp_path: Path, text: str) -> None:
    """Each within the smallest tariff that can hold it."""
    grid = "" if re.search("^grid:", text, re.MULTILINE) else 'grid: {price: "8.00"}\n'
    path = tmp_path / "example.yaml"
    path.write_text(_TARIFF + grid + text, encoding="utf-8")
    assert tariff_of_file(path, INR).tariff_id == "home"


def test_the_presets_of_the_page_are_those_of_the_program() -> None:
    """`tariff new NAME` with each name that the page gives."""
    page = (DOCS / "tariffs.md").read_text(encoding="utf-8")
    listed = page.partition("Presets: ")[2].partition(". Prices in them")[0]
    assert set(re.findall(r"`([a-z-]+)`", listed)) == set(PRESETS)
    assert all(preset_of(name).text() for name in PRESETS)
