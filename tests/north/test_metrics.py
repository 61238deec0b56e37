"""`/metrics` shows control's figures to Prometheus, and says when control is away."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.figures import CONTROL_FIGURES, PREFIX, Histogram
from gateway.core.requests import Role
from gateway.north.http.metrics import NORTH_FIGURES
from gateway.store.board import STALE_MS, BoardWriter
from tests.north.conftest import Served

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def scrape(site: Served) -> dict[str, float]:
    """Every sample by name and labels, as a Prometheus server parses it."""
    answer = await (await site.client(Role.AUDITOR)).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


async def test_figures_of_control_are_shown(site: Served) -> None:
    """Counters, labelled gauges and cumulative buckets, each under its documented name."""
    histogram = Histogram()
    for seconds in (0.0005, 0.003, 9.0):
        histogram.observe(seconds)
    board = BoardWriter(site.context.settings.live_dir)
    board.write(
        site.context.clock.utc_ms(),
        {"polls_total": 41, "meters": {"good": 2, "away": 1}, "cut_write_seconds": histogram},
    )
    samples = await scrape(site)
    assert samples["prepaid_gateway_control_up"] == 1
    assert samples["prepaid_gateway_polls_total"] == 41
    assert samples["prepaid_gateway_meters{state=away}"] == 1
    assert samples["prepaid_gateway_cut_write_seconds_bucket{le=0.001}"] == 1
    assert samples["prepaid_gateway_cut_write_seconds_bucket{le=0.005}"] == 2
    assert samples["prepaid_gateway_cut_write_seconds_bucket{le=+Inf}"] == 3
    assert samples["prepaid_gateway_cut_write_seconds_count"] == 3


async def test_old_figures_are_not_shown(site: Served) -> None:
    """With control away for 5 s there is `control_up 0`, and no figure that looks fresh."""
    board = BoardWriter(site.context.settings.live_dir)
    board.write(site.context.clock.utc_ms() - STALE_MS - 1_000, {"polls_total": 41})
    samples = await scrape(site)
    assert samples["prepaid_gateway_control_up"] == 0
    assert "prepaid_gateway_polls_total" not in samples


async def test_nobody_without_a_token_sees_figures(site: Served) -> None:
    """They tell when nobody is at home."""
    assert (await (await site.client(None)).get("/metrics")).status_code == 401
    assert (await (await site.client(Role.TENANT)).get("/metrics")).status_code == 403


def test_figures_are_documented() -> None:
    """Every figure has its row with kind and label, and no row is left over."""
    written = set(re.findall(r"^\| `(\S+)` \| (\w+) \| (\S+) \|", PAGE.read_text(), re.MULTILINE))
    control = {
        (PREFIX + figure.name, figure.kind.value, figure.label or "-") for figure in CONTROL_FIGURES
    }
    assert written == control | {(PREFIX + name, "gauge", "-") for name, _ in NORTH_FIGURES}
