"""Which model a command works with, when it was told one and when it was not."""

from __future__ import annotations

from collections.abc import Sequence

from sage.common.model_registry.vllm_registry import (
    ModelInfo,
    ModelNotFoundError,
    RevisionNotFoundError,
    download_model,
    get_model,
    list_models,
)
from sage.tools.cli.errors import CommandError
from sage.tools.cli.terminal.output import write_note

_EXAMPLE = "`sage llm model download Qwen/Qwen2.5-0.5B-Instruct`"


def chosen_model(
    model_id: str | None,
    revision: str | None,
    *,
    auto_download: bool,
    quiet: bool,
    allow_pickle: bool = False,
    kinds: Sequence[str] = ("text",),
    trains: bool = True,
) -> str:
    """Return the id asked for, else of the model used last, else of the demo model.

    `kinds` are the registry's types that will do: one of the first goes before those of the second.
    Says on stderr which one it took unasked. Without `trains` the demo model, which takes about a
    minute, is not trained where it is missing. `allow_pickle` is for a download. Raises
    ModelNotFoundError, RevisionNotFoundError, CommandError and, with `auto_download`, all that a
    download raises.
    """
    if model_id is not None:
        found = _local(
            model_id,
            revision,
            auto_download=auto_download,
            allow_pickle=allow_pickle,
            quiet=quiet,
        )
        if found.tags.get("type") == "lora":
            raise CommandError(
                f"{model_id} is a LoRA adapter, which is no model without its base model",
                "Name that one. A request names the adapter with the option `lora`: see the page "
                "middleware/tools/vllm_service of the documentation.",
            )
        return model_id
    if revision is not None:
        raise CommandError(f"a revision, {revision!r}, of no model", "Name one with --model.")
    models = list_models()
    for kind in kinds:
        known = [model for model in models if model.tags.get("type", "text") == kind]
        if known:
            last = max(known, key=lambda model: model.last_used)
            write_note(f"Using {last.model_id}, used last (--model takes another).", quiet=quiet)
            return last.model_id
    if "text" not in kinds:
        raise CommandError(
            "there is no local model that scores or classifies yet",
            "Download one, such as `sage llm model download BAAI/bge-reranker-base`.",
        )
    if not trains:
        raise CommandError("there is no local model yet", f"Run {_EXAMPLE}.")
    from sage.common.components.sage_vllm.errors import VLLMNotInstalledError
    from sage.tools.demo_model import MODEL_ID, ensure_demo_model

    write_note(
        "No local model yet: training the tiny demo model once, for about a minute. For a real "
        f"one: {_EXAMPLE}",
        quiet=quiet,
    )
    try:
        return ensure_demo_model(quiet=quiet)
    except ModuleNotFoundError as error:  # torch, which comes with vLLM
        raise VLLMNotInstalledError(MODEL_ID, str(error)) from error


def _local(
    model_id: str, revision: str | None, *, auto_download: bool, allow_pickle: bool, quiet: bool
) -> ModelInfo:
    try:
        return get_model(model_id, revision)
    except (ModelNotFoundError, RevisionNotFoundError):
        if not auto_download:
            raise
        from sage.tools.cli.terminal.download_display import download_display

        with download_display(quiet=quiet) as watch:
            return download_model(model_id, revision, watch, allow_pickle=allow_pickle)
