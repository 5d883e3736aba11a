"""A run as one HTML file: latency by percentile and throughput over time as SVG, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from fastmq.bench.report import TICK_S, Histogram, Result

WIDTH, HEIGHT = 860, 320
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 20, 44
COLORS = ("#1f6feb", "#d1570c", "#1a7f37", "#8250df", "#bf3989", "#57606a")
PERCENTILE_MARKS = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)

Points = Sequence[tuple[float, float]]


def page(results: Mapping[str, Result]) -> str:
    """The whole file; `results` by the name that the legend shows."""
    latencies = {
        f"{name} {kind}".strip(): _latency_points(histogram)
        for name, result in results.items()
        for kind, histogram in result.latency.items()
        if histogram.count and kind != "lateness"
    }
    rates = {
        f"{name} {kind}".strip(): _rate_points(counts)
        for name, result in results.items()
        for kind, counts in (("sent", result.acknowledged), ("read", result.delivered))
        if any(counts)
    }
    blocks = [f"<h2>{html.escape(name)}</h2><pre>{html.escape(r.to_text())}</pre>" for name, r in results.items()]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>fastmq bench</title><style>'
        "body{font:14px sans-serif;margin:24px;color:#1f2328}pre{background:#f6f8fa;padding:12px}"
        "svg text{font:12px sans-serif;fill:#57606a}</style></head><body><h1>fastmq bench</h1>"
        f"<h2>Latency by percentile (ms)</h2>{latency_chart(latencies)}"
        f"<h2>Messages a second over time</h2>{rate_chart(rates)}{''.join(blocks)}</body></html>\n"
    )


def _latency_points(histogram: Histogram) -> Points:
    """(nines, ms): x is -log10 of the share that took longer, so that each nine has the same width."""
    points, seen = [(0.0, histogram.percentile_ns(0.0) / 1e6)], 0
    for _, high, count in histogram.buckets:
        seen += count
        rest = max(histogram.count - seen, 0.5) / histogram.count
        points.append((-math.log10(rest), min(high, histogram.max_ns) / 1e6))
    return points


def _rate_points(counts: Sequence[int]) -> Points:
    return [(number * TICK_S, count / TICK_S) for number, count in enumerate(counts)]


def latency_chart(series: Mapping[str, Points]) -> str:
    """Latency on a logarithmic scale against percentiles."""
    if not series:
        return "<p>no latencies</p>"
    values = [max(y, 1e-4) for points in series.values() for _, y in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    high = max(high, low + 1)
    right = max(x for points in series.values() for x, _ in points) or 1.0
    x_marks = [(-math.log10(1 - p / 100), f"{p:g} %") for p in PERCENTILE_MARKS if -math.log10(1 - p / 100) <= right]
    y_marks = [(float(power), f"{10.0**power:g}") for power in range(low, high + 1)]
    scaled = {name: [(x, math.log10(max(y, 1e-4))) for x, y in points] for name, points in series.items()}
    return _chart(scaled, (0.0, right), (float(low), float(high)), x_marks, y_marks)


def rate_chart(series: Mapping[str, Points]) -> str:
    """Throughput against seconds since the start."""
    if not series:
        return "<p>nothing was sent or read</p>"
    right = max(points[-1][0] for points in series.values()) or TICK_S
    top = max(y for points in series.values() for _, y in points) * 1.05
    x_step, y_step = _step(right), _step(top)
    x_marks = [(n * x_step, f"{n * x_step:g} s") for n in range(int(right / x_step) + 1)]
    y_marks = [(n * y_step, f"{n * y_step:,.0f}") for n in range(int(top / y_step) + 1)]
    return _chart(series, (0.0, right), (0.0, top), x_marks, y_marks)


def _step(largest: float) -> float:
    """A round distance between marks, at most eight of them."""
    power: float = 10.0 ** math.floor(math.log10(largest / 8))
    return next(power * factor for factor in (1, 2, 5, 10) if largest / (power * factor) <= 8)


def _chart(
    series: Mapping[str, Points],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_marks: Sequence[tuple[float, str]],
    y_marks: Sequence[tuple[float, str]],
) -> str:
    def x_of(value: float) -> float:
        return LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">']
    for value, text in x_marks:
        parts.append(f'<path d="M{x_of(value):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eaeef2"/>')
        parts.append(f'<text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    for value, text in y_marks:
        parts.append(f'<path d="M{LEFT} {y_of(value):.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{text}</text>')
    for number, (name, points) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        at = LEFT + 8 + 180 * (number % 4)
        row = HEIGHT - 14 + 12 * (number // 4)
        parts.append(f'<rect x="{at}" y="{row - 9}" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{at + 14}" y="{row}">{html.escape(name)}</text>')
    return "".join([*parts, "</svg>"])
