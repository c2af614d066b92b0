"""`sage llm run`: a model in this terminal, a pipe or a batch job, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.options.engine_options import (
    AutoDownload,
    Dtype,
    EngineMode,
    EngineModeOption,
    GpuMemoryUtilization,
    MaxModelLen,
    TensorParallelSize,
    engine_arguments,
)
from sage.tools.cli.commands.options.model_options import (
    Json,
    LocalModel,
    LocalModelOption,
    Quiet,
    Revision,
    optional_model,
)
from sage.tools.cli.commands.options.sampling_flags import (
    Deadline,
    FrequencyPenalty,
    MaxTokens,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    sampling_options,
)
from sage.tools.cli.errors import CommandError
from sage.tools.cli.models.model_choice import chosen_model
from sage.tools.cli.terminal.output import write_note

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.config import VLLMServiceConfig


def run(
    model: LocalModel = None,
    model_option: LocalModelOption = None,
    revision: Revision = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Answer this and end; no chat.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="What the model is told beforehand.")
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="FILE|JSON", help="Answer in JSON by this JSON schema."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", "-i", help="A JSON Lines file of prompts.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file for their answers.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin the output anew where it is there.")
    ] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="Print vectors of the texts, no answers.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say whether the model fits this machine.")
    ] = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    repetition_penalty: RepetitionPenalty = None,
    deadline: Deadline = None,
    max_model_len: MaxModelLen = None,
    dtype: Dtype = None,
    gpu_memory_utilization: GpuMemoryUtilization = None,
    tensor_parallel_size: TensorParallelSize = None,
    engine_mode: EngineModeOption = EngineMode.AUTO,
    auto_download: AutoDownload = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Chat with a model in this terminal, or have it answer a prompt, a pipe or a file.

    Without a MODEL it is the one used last, or the demo model. Piped text is a prompt, or comes
    after the one given. The model is loaded into this process: there is no server.
    """
    arguments = engine_arguments(
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        dtype=dtype,
        tensor_parallel_size=tensor_parallel_size,
    )
    sampling = sampling_options(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stop=stop,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        deadline=deadline,
        json_schema=_schema(schema),
    )
    _check_together(
        generates={"--system": system, "--schema": schema, "sampling options": sampling or None},
        texts={"--prompt": prompt, "--input": source},
        output=output,
        overwrite=overwrite,
        embed=embed,
        estimate=estimate,
    )
    texts = [] if estimate or source else _texts(prompt, chats=not (embed or as_json))
    wanted = optional_model(model, model_option)
    model_id = chosen_model(
        wanted,
        revision,
        embeds=embed,
        auto_download=auto_download,
        quiet=quiet,
        trains=not estimate,
    )
    if estimate:
        from sage.tools.cli.run.estimate import write_estimate

        if not write_estimate(model_id, revision, arguments, embeds=embed, as_json=as_json):
            raise typer.Exit(1)
        return
    _check_kind(model_id, revision, embed=embed, quiet=quiet)
    config = _config(
        model_id,
        revision,
        arguments,
        sampling,
        embed=embed,
        engine_mode=engine_mode.value,
        auto_download=auto_download,
    )
    if source is not None and output is not None:
        from sage.tools.cli.run.batch_files import run_file

        run_file(
            config,
            source,
            output,
            system=system,
            overwrite=overwrite,
            as_json=as_json,
            quiet=quiet,
        )
    elif not texts:
        from sage.tools.cli.run.chat import chat

        chat(config, system=system, quiet=quiet)
    elif embed:
        from sage.tools.cli.run.embedding import embed_texts

        embed_texts(config, texts, as_json=as_json, quiet=quiet)
    else:
        from sage.tools.cli.run.one_shot import answer_once

        answer_once(config, "\n".join(texts), system=system, as_json=as_json, quiet=quiet)


def _check_together(
    *,
    generates: dict[str, Any],
    texts: dict[str, Any],
    output: Path | None,
    overwrite: bool,
    embed: bool,
    estimate: bool,
) -> None:
    """Raise BadParameter for options that have no sense together."""
    given = [name for name, value in texts.items() if value is not None]
    if len(given) == 2:
        raise typer.BadParameter("--prompt and --input: give one of them")
    if (texts["--input"] is None) != (output is None):
        raise typer.BadParameter("--input and --output go together")
    if overwrite and output is None:
        raise typer.BadParameter("--overwrite is for an --output")
    if estimate and given:
        raise typer.BadParameter(f"--estimate loads nothing, so it takes no {given[0]}")
    unused = [name for name, value in generates.items() if value is not None]
    if unused and (embed or estimate):
        mode = "--embed" if embed else "--estimate"
        raise typer.BadParameter(f"{mode} generates nothing, so it takes no {unused[0]}")


def _schema(source: str | None) -> dict[str, Any] | None:
    if source is None:
        return None
    from sage.tools.cli.run.schema import read_schema

    try:
        return read_schema(source)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--schema") from error


def _texts(prompt: str | None, *, chats: bool) -> list[str]:
    """The prompt and the lines that are piped in; none where there is a user to chat with."""
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


def _config(
    model_id: str,
    revision: str | None,
    arguments: dict[str, Any],
    sampling: dict[str, Any],
    *,
    embed: bool,
    **others: Any,
) -> VLLMServiceConfig:
    from sage.common.components.sage_vllm.config import VLLMServiceConfig

    if embed:
        return VLLMServiceConfig(
            embedding_model_id=model_id,
            embedding_revision=revision,
            embedding_engine=arguments,
            **others,
        )
    return VLLMServiceConfig(
        model_id=model_id, revision=revision, engine=arguments, sampling=sampling, **others
    )


def _check_kind(model_id: str, revision: str | None, *, embed: bool, quiet: bool) -> None:
    """Raise CommandError for a model that does not generate; say where one is not made to embed."""
    from sage.common.model_registry.vllm_registry import get_model

    is_for_embedding = get_model(model_id, revision).tags.get("type") == "embedding"
    if is_for_embedding and not embed:
        raise CommandError(
            f"{model_id} is an embedding model, which generates no text",
            "Give --embed for vectors, or another model.",
        )
    if embed and not is_for_embedding:
        write_note(
            f"{model_id} is a text model, converted: an embedding model is faster and better.",
            quiet=quiet,
        )
