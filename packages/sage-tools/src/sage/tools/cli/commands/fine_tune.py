"""`sage llm fine-tune`: check a request in full, and hand it to the backend that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.options.model_options import Display, local_model_ids
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest

_WHERE_TO_CONTRIBUTE = (
    "Hint: A package brings a backend under the entry-point group `sage.fine_tuning`. To "
    "contribute one, see the page fine_tuning of the documentation."
)


def fine_tune(
    *,
    base_model: Annotated[
        str,
        typer.Option(
            "--base-model", "-m", help="Id of a local model.", autocompletion=local_model_ids
        ),
    ],
    dataset: Annotated[
        Path,
        typer.Option(
            "--dataset", help="JSON Lines: messages, prompt and completion, or text in each."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the result, empty or not there yet.")
    ],
    strategy: Annotated[str, typer.Option("--strategy", help="full, lora or qlora.")] = "lora",
    hyperparameter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For the backend; VALUE as JSON. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check the request, and do nothing.")
    ] = False,
    display: Display,
) -> None:
    """Fine-tune a model with the backend that is installed.

    SAGE trains nothing itself: a backend is a package of its own. Without one, the request is
    checked all the same, every line of the dataset too, and the exit code is 1.
    """
    from sage.common.components.sage_vllm import fine_tuning

    request = {
        "base_model": base_model,
        "dataset_path": dataset,
        "output_dir": output,
        "strategy": strategy,
        "hyperparameters": _parse(hyperparameter or []),
    }
    try:
        if dry_run:
            _report("valid", fine_tuning.check_request(request), display)
            return
        result = fine_tuning.fine_tune(request)
    except fine_tuning.FineTuneRequestError as error:
        if error.field == "strategy":
            raise typer.BadParameter(error.reason) from error
        raise
    except fine_tuning.FineTuningPendingError as error:
        _report("pending", error.request, display)
        write_note(
            f"Nothing was trained: the fine-tuning pipeline is pending, no backend for "
            f"{strategy!r} is installed."
        )
        write_note(_WHERE_TO_CONTRIBUTE)
        raise typer.Exit(1) from None
    _write_result(result, display)


def _parse(pairs: list[str]) -> dict[str, Any]:
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


def _report(status: str, request: FineTuneRequest, display: Display) -> None:
    if display.as_json:
        write_json({"status": status, "request": _plain(vars(request))})
        return
    write_note(
        f"The request is valid: {request.strategy} on {request.base_model} with "
        f"{request.example_count} examples, into {request.output_dir}.",
        quiet=display.quiet,
    )


def _write_result(result: dict[str, Any], display: Display) -> None:
    plain = _plain(result)
    if display.as_json:
        write_json({"status": "done", "result": plain})
        return
    for name, value in plain.items():
        write_data(f"{name}: {value}")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the same as JSON has it; a path, or whatever else a backend returns, as a text."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
