"""`/metrics`: control's figures and north's own, for Prometheus."""

import asyncio
from collections.abc import Iterator
from typing import Final

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from gateway.core.errors import StoreAwayError
from gateway.core.figures import (
    BOUNDS_MS,
    FIGURES_BY_NAME,
    PREFIX,
    Figure,
    FigureKind,
    Histogram,
    Value,
)
from gateway.north.context import NorthContext
from gateway.north.http.auth import VIEWERS, access
from gateway.north.http.context import context_of
from gateway.store.board import Board, read_board

router = APIRouter(tags=["system"])

# Figures that north knows itself: (name, meaning).
NORTH_FIGURES: Final = (
    ("control_up", "1 while control shows fresh figures; the others are absent while it does not."),
    ("stream_clients", "Clients of the event stream."),
)


@router.get("/metrics", response_class=PlainTextResponse, **access(VIEWERS))
async def metrics(request: Request) -> Response:
    """Figures in the text format of Prometheus; names and meanings are in docs/metrics.md."""
    context = context_of(request)
    try:
        board = await asyncio.to_thread(read_board, context.settings.live_dir)
    except StoreAwayError:
        board = None
    if board is not None and board.stale(context.clock.utc_ms()):
        board = None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Board(context, board))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Board(Collector):
    """One scrape."""

    def __init__(self, context: NorthContext, board: Board | None) -> None:
        self._context = context
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """Every figure there is."""
        own = {
            "control_up": float(self._board is not None),
            "stream_clients": float(self._context.hub.listeners),
        }
        for name, meaning in NORTH_FIGURES:
            yield GaugeMetricFamily(PREFIX + name, meaning, value=own[name])
        if self._board is not None:
            for name, value in self._board.figures.items():
                yield _family(FIGURES_BY_NAME[name], value)


def _family(figure: Figure, value: Value) -> Metric:
    name = PREFIX + figure.name
    if isinstance(value, Histogram):
        return HistogramMetricFamily(
            name, figure.meaning, buckets=list(_buckets(value)), sum_value=value.total_s
        )
    family: CounterMetricFamily | GaugeMetricFamily
    labels = [] if figure.label is None else [figure.label]
    if figure.kind is FigureKind.COUNTER:
        family = CounterMetricFamily(name, figure.meaning, labels=labels)
    else:
        family = GaugeMetricFamily(name, figure.meaning, labels=labels)
    if isinstance(value, float):
        family.add_metric([], value)
    else:
        for label, number in value.items():
            family.add_metric([label], number)
    return family


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    reached = 0
    bounds = [*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        reached += count
        yield bound, reached
