"""`sage llm run`: a model in this terminal, a pipe or a batch job, without a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

import typer

from sage.tools.cli.commands.options.run_options import RunOptions
from sage.tools.cli.errors import CommandError
from sage.tools.cli.models.model_choice import chosen_model

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.config import VLLMServiceConfig


class Mode(Protocol):
    """What a run does with a model: each knows its own options, and is told the service's."""

    def run(self, config: VLLMServiceConfig) -> None:
        """Do it; raises CommandError and Interrupted."""


def run(options: RunOptions) -> None:
    """Chat with a model in this terminal, or have it answer a prompt, a pipe or a file.

    Without a MODEL it is the one used last, or the demo model. Piped text is a prompt, or comes
    after the one given. The model is loaded into this process: there is no server.
    """
    settings = _settings(options)
    options.check_together()
    _check_template(options.template)
    mode = _mode(options)
    model_id = chosen_model(
        options.model_id(),
        options.model.revision,
        kinds=_kinds(options),
        auto_download=options.load.auto_download,
        allow_pickle=options.load.allow_pickle,
        quiet=options.display.quiet,
        trains=not options.estimate,
    )
    if not options.estimate:
        _check_kind(model_id, options)
    mode.run(_config(model_id, options, settings))


def _mode(options: RunOptions) -> Mode:
    as_json, quiet = options.display.as_json, options.display.quiet
    if options.estimate:
        from sage.tools.cli.run.estimate import Estimate

        return Estimate(as_json=as_json)
    if options.source is not None and options.output is not None:
        from sage.common.core.local_path import local_path
        from sage.tools.cli.run.batch.batch_files import BatchFiles

        return BatchFiles(
            source=local_path(options.source),
            output=local_path(options.output),
            system=options.system,
            query=options.score,
            labels=_labels(options),
            template=options.template,
            overwrite=options.overwrite,
            retry_failed=options.retry_failed,
            input_grew=options.input_grew,
            as_json=as_json,
            quiet=quiet,
        )
    others = options.embed or options.scores or options.classify
    texts = _texts(options.prompt, chats=not (others or as_json))
    if not texts and options.image:
        raise typer.BadParameter("--image is for a prompt: give one with --prompt")
    if not texts:
        from sage.tools.cli.run.chat.chat import Chat

        return Chat(system=options.system, hide_reasoning=options.hide_reasoning, quiet=quiet)
    if options.embed:
        from sage.tools.cli.run.embedding import Embedding

        return Embedding(texts=texts, as_json=as_json, quiet=quiet)
    if options.scores or options.classify:
        from sage.tools.cli.run.scoring import Scoring

        return Scoring(
            texts=texts,
            query=options.score,
            labels=_labels(options),
            as_json=as_json,
            quiet=quiet,
        )
    from sage.tools.cli.run.one_shot import OneShot

    return OneShot(
        text="\n".join(texts),
        images=tuple(options.image or ()),
        system=options.system,
        hide_reasoning=options.hide_reasoning,
        as_json=as_json,
        quiet=quiet,
    )


def _labels(options: RunOptions) -> list[str] | None:
    """Return the labels that a text model chooses among; raises BadParameter."""
    if options.labels is None:
        return None
    from sage.common.components.sage_vllm.requests.scoring.scoring_options import check_labels

    try:
        return list(check_labels([label.strip() for label in options.labels.split(",")]))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--labels") from error


def _texts(prompt: str | None, *, chats: bool) -> list[str]:
    """Return the prompt and the lines that are piped in; none where a user is there to chat."""
    texts = [prompt] if prompt is not None and prompt.strip() else []
    has_terminal = sys.stdin is not None and sys.stdin.isatty()
    if sys.stdin is not None and not has_terminal:
        try:
            piped = sys.stdin.buffer.read().decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"what is piped in is no UTF-8 text: {error}") from error
        texts += piped.split("\n") if piped else []  # an empty line would be part of the prompt
    if any(text.strip() for text in texts):
        return texts
    if chats and prompt is None and has_terminal and sys.stdout.isatty():
        return []
    raise typer.BadParameter(
        "there is no prompt: give one with --prompt, or pipe one in; a chat needs a terminal"
    )


def _settings(options: RunOptions) -> dict[str, Any]:
    """Return the service's settings without its model; raises BadParameter for what cannot be."""
    arguments = options.engine.arguments()
    others: dict[str, Any] = {
        "engine_mode": options.engine_mode.value,
        "auto_download": options.load.auto_download,
        "allow_pickle": options.load.allow_pickle,
    }
    if options.cache is not None:
        others["cache"] = options.cache
    if options.embed:
        return {"embedding_engine": arguments, **others}
    if options.scores:
        return {"scoring_engine": arguments, **others}
    if options.embedding_model is not None:
        others["embedding_model_id"] = options.embedding_model
    sampling = options.sampling.given()
    if options.lora is not None:
        sampling["lora"] = options.lora
        arguments = {**_engine_for(options.lora), **arguments}
    if options.schema is not None:
        sampling["json_schema"] = _schema(options.schema)
    return {"engine": arguments, "sampling": sampling, **others}


def _engine_for(adapter: str) -> dict[str, Any]:
    """Return the options of an engine that takes an adapter; raises as finding it does."""
    from sage.common.components.sage_vllm.adapters.lora_adapter import find_adapter
    from sage.common.components.sage_vllm.adapters.lora_ranks import engine_options_for

    return engine_options_for(find_adapter(adapter, None).rank)


def _schema(source: str) -> dict[str, Any]:
    from sage.tools.cli.run.schema import read_schema

    try:
        return read_schema(source)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--schema") from error


def _check_template(template: str | None) -> None:
    if template is not None:
        from sage.libs.operators.prompts import PromptTemplate

        try:
            PromptTemplate(template, "--template")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def _config(model_id: str, options: RunOptions, settings: dict[str, Any]) -> VLLMServiceConfig:
    from sage.common.components.sage_vllm.config import VLLMServiceConfig

    revision = options.model.revision
    if options.embed:
        return VLLMServiceConfig(
            embedding_model_id=model_id, embedding_revision=revision, **settings
        )
    if options.estimate and _scores_by_itself(model_id, revision):
        settings = {"scoring_engine": settings.pop("engine"), **settings}
    if "scoring_engine" in settings:
        return VLLMServiceConfig(scoring_model_id=model_id, scoring_revision=revision, **settings)
    return VLLMServiceConfig(model_id=model_id, revision=revision, **settings)


def _kinds(options: RunOptions) -> tuple[str, ...]:
    """Return what models will do, by the registry's types, the most fitting first."""
    if options.scores:
        return ("classification", "reward")
    return ("embedding", "text") if options.embed else ("text",)


def _scores_by_itself(model_id: str, revision: str | None) -> bool:
    """Whether a model is one that scores, and no other is asked of it."""
    from sage.common.components.sage_vllm.engine_contract import Role
    from sage.common.model_registry.vllm_registry import get_model

    return Role.of_tags(get_model(model_id, revision).tags) is Role.SCORE


def _check_kind(model_id: str, options: RunOptions) -> None:
    """Raise CommandError for a model that does not generate."""
    from sage.common.model_registry.vllm_registry import get_model

    kind = get_model(model_id, options.model.revision).tags.get("type", "text")
    if options.scores:
        return  # its class says whether it has a head, and the error what it is
    if kind != "text" and not options.embed:
        article = "an" if kind == "embedding" else "a"
        ways = {
            "embedding": "Give --embed for vectors, or another model",
            "classification": "Give --classify, or --score QUERY, or another model",
        }
        raise CommandError(
            f"{model_id} is {article} {kind} model, which generates no text",
            f"{ways.get(str(kind), 'Choose another model')}; if it does generate, import or "
            f"download it again with --as text.",
        )
