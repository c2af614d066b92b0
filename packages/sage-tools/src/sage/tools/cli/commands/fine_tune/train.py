"""`sage llm fine-tune` itself: check a request in full, train, and say what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.options.model_options import Display, local_model_ids
from sage.tools.cli.light_command import USAGE_ERROR
from sage.tools.cli.terminal.output import write_json, write_note

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest

_WHERE_TO_CONTRIBUTE = (
    "Hint: Run: pip install 'isage-tuning'. Or bring a backend of your own under the entry-point "
    "group `sage.fine_tuning`, see the page fine_tuning of the documentation."
)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is trained on and evaluated on."""

    dataset: Annotated[
        list[Path] | None,
        typer.Option(
            "--dataset",
            metavar="PATH",
            help="JSON Lines: messages, prompt and completion, prompt with chosen and rejected, "
            "or text in each. May be repeated.",
        ),
    ] = None
    eval_dataset: Annotated[
        Path | None, typer.Option("--eval-dataset", help="Examples to evaluate on instead.")
    ] = None
    eval_fraction: Annotated[
        float, typer.Option("--eval-fraction", help="Share of the prompts to hold out.")
    ] = 0.1
    replay: Annotated[
        Path | None,
        typer.Option("--replay", help="Examples of what the model can do, so that it stays so."),
    ] = None
    replay_share: Annotated[
        float, typer.Option("--replay-share", help="Their share of what is trained on.")
    ] = 0.25


@dataclass(frozen=True, kw_only=True)
class Result:
    """What becomes of what was trained."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the job, empty or not there yet."),
    ] = None
    output_model: Annotated[
        str | None, typer.Option("--as", metavar="ID", help="Id to register the result under.")
    ] = None
    merge: Annotated[
        bool, typer.Option("--merge", help="Register a whole model, not an adapter.")
    ] = False
    keep_worse: Annotated[
        bool, typer.Option("--keep-worse", help="Register it even if it is no better.")
    ] = False


def fine_tune(
    context: typer.Context,
    *,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", "-m", help="Id of a local model.", autocompletion=local_model_ids
        ),
    ] = None,
    examples: Examples,
    result: Result,
    strategy: Annotated[str, typer.Option("--strategy", help="full, lora or qlora.")] = "lora",
    method: Annotated[
        str | None, typer.Option("--method", help="sft or dpo; by default what the examples are.")
    ] = None,
    hyperparameter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For the backend; VALUE as JSON. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check the request, and do nothing.")
    ] = False,
    display: Display,
) -> None:
    """Fine-tune a model, verify the result in vLLM, and register it if it is better.

    A backend trains, a package of its own such as isage-tuning. Without one, the request is
    checked all the same, and the exit code is 1. Ctrl-C stops after the step that is under way;
    `resume` goes on from there.
    """
    if context.invoked_subcommand is not None:
        return
    request = _request(context, base_model, examples, result)
    request |= {"strategy": strategy, "method": method}
    request["hyperparameters"] = parse_hyperparameters(hyperparameter or [])
    run_request(request, dry_run=dry_run, display=display)


def run_request(
    request: dict[str, Any],
    *,
    dry_run: bool,
    display: Display,
    then: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Check or carry out a request, and exit with 1 if nothing better came of it.

    ``then`` is told the outcome before it is printed.
    """
    from sage.common.components.sage_vllm import fine_tuning
    from sage.tools.cli.tuning.live_view import follow
    from sage.tools.cli.tuning.plan_view import write_plan
    from sage.tools.cli.tuning.report_view import write_result

    try:
        if dry_run:
            checked, report = fine_tuning.preview_fine_tuning(request)
            _report("valid", checked, display, report)
            if report and not display.as_json:
                write_plan(checked, report)
            return
        with follow(display) as watched:
            outcome = fine_tuning.fine_tune(request, started=watched)
    except fine_tuning.FineTuneRequestError as error:
        if error.field == "strategy" and "unknown" in error.reason:
            raise typer.BadParameter(error.reason) from error
        if display.as_json and error.problems:
            write_json({"status": "invalid", "problems": list(error.problems)})
        raise
    except fine_tuning.FineTuningPendingError as error:
        _report("pending", error.request, display)
        write_note(
            f"Nothing was trained: the fine-tuning pipeline is pending, no backend for "
            f"{request['strategy']!r} is installed."
        )
        write_note(_WHERE_TO_CONTRIBUTE)
        raise typer.Exit(1) from None
    if then is not None:
        then(outcome)
    write_result(outcome, display)


def _request(
    context: typer.Context, base_model: str | None, examples: Examples, result: Result
) -> dict[str, Any]:
    needed = {
        "--base-model": base_model,
        "--dataset": examples.dataset,
        "--output": result.output,
    }
    for flag, value in needed.items():
        if not value:
            raise USAGE_ERROR(f"Missing option '{flag}'.", ctx=context)  # type: ignore[call-arg]
    return {
        "base_model": base_model,
        "dataset_path": examples.dataset,
        "output_dir": result.output,
        "eval_dataset_path": examples.eval_dataset,
        "eval_fraction": examples.eval_fraction,
        "replay_path": examples.replay,
        "replay_share": examples.replay_share,
        "output_model": result.output_model,
        "merge": result.merge,
        "keep_worse": result.keep_worse,
    }


def parse_hyperparameters(pairs: list[str]) -> dict[str, Any]:
    """Return hyperparameters from KEY=VALUE, each value read as JSON if it is that."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"a hyperparameter is KEY=VALUE, not {pair!r}")
        try:
            values[key] = json.loads(text)
        except ValueError:  # a plain word
            values[key] = text
    return values


def _report(
    status: str, request: FineTuneRequest, display: Display, report: dict[str, Any] | None = None
) -> None:
    if display.as_json:
        plain = {"status": status, "request": request.to_json()}
        write_json(plain | ({"report": report} if report else {}))
        return
    write_note(
        f"The request is valid: {request.strategy} on {request.base_model} with "
        f"{request.example_count} examples, into {request.output_dir}.",
        quiet=display.quiet,
    )
