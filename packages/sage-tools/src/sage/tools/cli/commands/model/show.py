"""`sage llm model show`: what is there."""

from __future__ import annotations

from sage.tools.cli.commands.options.model_options import Display, ModelOptions
from sage.tools.cli.terminal.output import write_data, write_json, write_note


def show(model: ModelOptions, display: Display) -> None:
    """Show the local models, or one of them in detail."""
    model_id = model.optional_id()
    if model_id is None:
        _show_all(display)
    else:
        _show_one(model_id, model.revision, display)


def _show_all(display: Display) -> None:
    from sage.common.model_registry.vllm_registry import list_models
    from sage.tools.cli.models.model_view import model_json, write_models

    models = list_models()
    if display.as_json:
        write_json([model_json(each) for each in models])
    elif display.quiet:
        for model_id in dict.fromkeys(each.model_id for each in models):
            write_data(model_id)
    elif models:
        write_models(models)
    else:
        write_note("No models yet. Run `sage llm model download --model <owner>/<name>`.")


def _show_one(model_id: str, revision: str | None, display: Display) -> None:
    from sage.common.model_registry.vllm_registry import get_model
    from sage.tools.cli.machine.machine_memory import machine_memory, verdict
    from sage.tools.cli.models.model_view import model_json, weight_bytes, write_details

    found = get_model(model_id, revision)
    if display.quiet:
        write_data(str(found.path))
        return
    memory = machine_memory()
    if display.as_json:
        fits = {"memory": verdict(weight_bytes(found), memory)}
        write_json({**model_json(found, files=True), **fits})
    else:
        write_details(found, memory)
