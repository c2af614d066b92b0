"""report.html: the curves of a training and what came of it, in one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _EDGE = 640, 260, 42
_TRAINED, _HELD_OUT = "#8a8f98", "#1a7f37"
_SHARES = ("token_accuracy", "exact_match", "preference_accuracy")


def report_page(title: str, report: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return the page; ``metrics`` are those of FineTuneJob."""
    trained = [(row["step"], row["loss"]) for row in metrics if "loss" in row]
    held_out = [(row["step"], row["eval_loss"]) for row in metrics if "eval_loss" in row]
    verdict = "better than its base" if report["better"] else f"no better: {report['reason']}"
    samples = "".join(
        f"<dt>{escape(each['prompt'])}</dt><dd>before: {escape(each['before'])}<br>"
        f"after: {escape(each['after'])}</dd>"
        for each in report["samples"]
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title>"
        "<style>body{font:15px system-ui;max-width:46em;margin:2em auto}td,th{padding:.1em .8em;"
        "text-align:right}th:first-child,td:first-child{text-align:left}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(verdict)}</p>"
        f"{_chart(trained, held_out)}{_table(report)}<dl>{samples}</dl>\n"
    )


def _table(report: Mapping[str, Any]) -> str:
    before, after = report["evaluation"]["before"], report["evaluation"]["after"]
    if before is None or after is None:
        return ""
    rows = "".join(
        f"<tr><td>{name.replace('_', ' ')}<td>{_shown(name, before[name])}"
        f"<td>{_shown(name, after[name])}"
        for name in after
        if name in before and name != "step"
    )
    return f"<table><tr><th>held out<th>before<th>after{rows}</table>"


def _shown(name: str, value: float) -> str:
    return f"{value:.1%}" if name in _SHARES else f"{value:.4g}"


def _chart(*lines: Sequence[tuple[int, float]]) -> str:
    points = [point for line in lines for point in line]
    if not points:
        return ""
    last, top = max(step for step, _ in points) or 1, max(loss for _, loss in points) or 1.0
    wide, high = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE

    def drawn(line: Sequence[tuple[int, float]], colour: str) -> str:
        places = " ".join(
            f"{_EDGE + wide * step / last:.1f},{_EDGE + high * (1 - loss / top):.1f}"
            for step, loss in line
        )
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.6"/>'

    curves = "".join(
        drawn(line, colour) for line, colour in zip(lines, (_TRAINED, _HELD_OUT), strict=True)
    )
    low = _HEIGHT - _EDGE
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss by step">'
        f'<path d="M{_EDGE} {_EDGE}V{low}H{_WIDTH - _EDGE}" fill="none" stroke="#ccc"/>{curves}'
        f'<text x="4" y="{_EDGE}" font-size="11">{top:.3g}</text>'
        f'<text x="4" y="{low}" font-size="11">0</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{low + 16}" font-size="11">{last}</text>'
        f'<text x="{_EDGE}" y="{_EDGE - 12}" font-size="12" fill="{_TRAINED}">loss</text>'
        f'<text x="{_EDGE + 50}" y="{_EDGE - 12}" font-size="12" fill="{_HELD_OUT}">held out</text>'
        "</svg>"
    )
