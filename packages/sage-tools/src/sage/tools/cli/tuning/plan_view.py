"""What a fine-tuning would do, as a few lines: examples, tokens, mask, steps, needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage.common.model_registry.vllm_registry import format_bytes
from sage.tools.cli.terminal.output import escape, is_rich, write_data

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest


def write_plan(request: FineTuneRequest, report: Mapping[str, Any]) -> None:
    """Print what a backend's report says of a request."""
    tokens, needs, settings = report["tokens"], report["needs"], report["settings"]
    trained = tokens["trained"] / tokens["total"]
    write_data(
        f"{request.base_model} ({_count(needs['parameters'])}, context {report['context']}) "
        f"+ {report['examples']} examples ({report['shape']}), {report['held_out']} held out"
    )
    _line(
        "tokens",
        f"p50 {tokens['p50']}  p90 {tokens['p90']}  longest {tokens['longest']}   "
        f"total {tokens['total']:,}   trained {tokens['trained']:,} ({trained:.0%})",
    )
    unknown = report["unknown_share"]
    _line(
        "problems",
        f"none     overlong {report['overlong']['count']}   duplicates {report['duplicates']}"
        + (f"   unknown tokens {unknown:.1%}" if unknown else ""),
    )
    for warning in report["warnings"]:
        _line("warning", warning)
    for example in report["mask"]:
        print(f"  {'mask':<9}{_masked(example)}")
    of = f"{_count(needs['trained_parameters'])} of {_count(needs['parameters'])} trained"
    how = f"{request.strategy} rank {settings['rank']}" if request.strategy != "full" else "full"
    replay = f", {request.replay_share:.0%} replay" if report["replay"] else ""
    _line(
        "plan",
        f"{report['method']}, {how} ({of}), {needs['steps']} steps of {settings['batch_size']}"
        f"{replay}, rate {settings['learning_rate']:g}",
    )
    seconds = round(needs["seconds"])
    _line(
        "needs",
        f"{format_bytes(needs['memory_bytes'])} of {format_bytes(needs['free_bytes'])} free, "
        f"about {seconds // 60}:{seconds % 60:02}",
    )


def _line(name: str, text: str) -> None:
    write_data(f"  {name:<9}{text}")


def _masked(pieces: Sequence[Sequence[Any]]) -> str:
    """Return an example's text, what is trained in colour, or in brackets where there is none."""
    begin, end = ("\x1b[32m", "\x1b[0m") if is_rich(sys.stdout) else ("[", "]")
    return "".join(
        f"{begin}{escape(text)}{end}" if is_trained else escape(text) for text, is_trained in pieces
    )


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
