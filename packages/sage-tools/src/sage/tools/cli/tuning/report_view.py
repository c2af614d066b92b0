"""What came of a fine-tuning: the figures before and after, a few answers, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.tools.cli.commands.options.model_options import Display

_ROWS = ("loss", "perplexity", "token_accuracy", "exact_match", "preference_accuracy")
_SHARES = ("token_accuracy", "exact_match", "preference_accuracy")
_SAMPLES = 3


def write_result(outcome: Mapping[str, Any], display: Display) -> None:
    """Print what a backend returned; exit with 1 where it says that nothing better came of it."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(outcome), default=str))
    if display.as_json:
        write_json({"status": "done", "result": plain})
    elif "evaluation" in plain:
        write_report(plain)
    else:
        for name, value in plain.items():
            write_data(f"{name}: {value}")
    if plain.get("better") is False:
        kept = "It was registered all the same" if plain.get("registered") else "Not registered"
        write_note(f"{kept}: {plain['reason']}.")
        if not plain.get("registered") and plain.get("gate") == "better":
            write_note("Hint: Add --keep-worse to register it anyway.")
        raise typer.Exit(1)


def write_report(report: Mapping[str, Any]) -> None:
    """Print a job's report."""
    name = report["output_model"] or report["output_dir"]
    checked = report["verification"]
    verified = ""
    if checked is not None:
        after = report["evaluation"]["after"]
        trained = after.get("chosen_loss", after["loss"])
        verified = f", verified in vLLM (loss {checked['loss_vllm']:.4f}, trained {trained:.4f})"
    write_data(f"Trained {name} in {report['seconds']:.0f} s{verified}")
    _write_figures(report)
    for sample in report["samples"][:_SAMPLES]:
        write_data(f"  {sample['prompt']!r}")
        write_data(f"    before: {sample['before']}")
        write_data(f"    after:  {sample['after']}")
    if report["registered"]:
        write_data(f"Use it: {_use(report)}")


def _use(report: Mapping[str, Any]) -> str:
    name = report["output_model"]
    if report["kind"] != "lora":
        return f"sage llm run {name}"
    return f'sage llm run {report["base_model"]} --lora {name}    (or lora="{name}" in generate)'


def _write_figures(report: Mapping[str, Any]) -> None:
    before, after = report["evaluation"]["before"], report["evaluation"]["after"]
    if before is None or after is None:
        return
    write_data(f"  {'':<20}{'before':>10}{'after':>10}")
    for name in _ROWS:
        if name in before and name in after:
            form = ".1%" if name in _SHARES else ".4g"
            title = name.replace("_", " ")
            write_data(f"  {title:<20}{before[name]:>10{form}}{after[name]:>10{form}}")
    checked = report["verification"]
    if checked and "exact_match_vllm" in checked:
        one, other = checked["exact_match_before"], checked["exact_match_vllm"]
        write_data(f"  {'exact in vLLM':<20}{one:>10.1%}{other:>10.1%}")
    if report.get("baseline"):
        write_data(f"  before, in vLLM, is {report['baseline']}")
