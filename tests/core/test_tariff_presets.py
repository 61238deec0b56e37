"""Presets are good tariffs, and cost what they say."""

import pytest
import yaml

from gateway.core.errors import RefusedError
from gateway.core.pricing import Pricer
from gateway.core.tariff_document import tariff_from_document
from gateway.core.tariff_presets import PRESETS, Preset, preset_of


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_a_preset_is_a_tariff_of_its_currency(preset: Preset) -> None:
    """It passes the check as it is written, comments and all."""
    document = yaml.load(preset.text(), Loader=yaml.BaseLoader)  # noqa: S506 - text only
    tariff = tariff_from_document(document, preset.currency)
    assert (tariff.tariff_id, tariff.zone) == (preset.name, preset.timezone)
    other = yaml.load(preset.text("EUR", "Europe/Berlin"), Loader=yaml.BaseLoader)  # noqa: S506
    assert (other["currency"], other["timezone"]) == ("EUR", "Europe/Berlin")


def test_the_preset_of_three_blocks_is_the_older_example_bill() -> None:
    """250 kWh are 1025 and the fee 50, tax 193.50, 1268.50 in all."""
    preset = preset_of("three-blocks")
    document = yaml.load(preset.text(), Loader=yaml.BaseLoader)  # noqa: S506 - text only
    tariff = tariff_from_document(document, preset.currency)
    start_ms = tariff.effective_from_utc_ms
    pricer = Pricer([tariff], start_utc_ms=start_ms)
    pricer.advance({"grid": 250_000}, start_ms, start_ms + 1)
    pricer.close_periods(start_ms + 31 * 86_400_000)
    assert pricer.running_nano() == 1_268_500_000_000


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    """A slip of the finger gets the list."""
    with pytest.raises(RefusedError, match="single-rate") as refusal:
        preset_of("single")
    assert refusal.value.refusal_code == "PRESET_UNKNOWN"
