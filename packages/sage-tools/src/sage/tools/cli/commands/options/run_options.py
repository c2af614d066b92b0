"""The options of `sage llm run`, and which of them have no sense together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sage.tools.cli.commands.options.engine_options import (
    EngineMode,
    EngineModeOption,
    EngineOptions,
    LoadOptions,
)
from sage.tools.cli.commands.options.model_options import (
    Display,
    ModelOptions,
    local_model_ids,
    optional_model,
)
from sage.tools.cli.commands.options.sampling_options import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `sage llm run` was told, as it was told."""

    model: ModelOptions
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Answer this and end; no chat.")
    ] = None
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="What the model is told beforehand.")
    ] = None
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="FILE|JSON", help="Answer in JSON by this JSON schema."),
    ] = None
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="A picture for the prompt; may be repeated."),
    ] = None
    source: Annotated[
        Path | None, typer.Option("--input", "-i", help="A JSON Lines file of prompts.")
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file for their answers.")
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin the output anew where it is there.")
    ] = False
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run only the lines that failed, mended or not.")
    ] = False
    input_grew: Annotated[
        bool, typer.Option("--input-grew", help="Run also the lines added to the input since.")
    ] = False
    template: Annotated[
        str | None,
        typer.Option(
            "--template", metavar="TEXT", help='The prompt of each line: "Summarise: {text}".'
        ),
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="FOLDER",
            help="Keep vectors, and answers of --temperature 0 or with a --seed, for next time.",
        ),
    ] = None
    embed: Annotated[
        bool, typer.Option("--embed", help="Print vectors of the texts, no answers.")
    ] = False
    score: Annotated[
        str | None,
        typer.Option("--score", metavar="QUERY", help="Print how well each text answers this."),
    ] = None
    classify: Annotated[bool, typer.Option("--classify", help="Print the class of each text.")] = (
        False
    )
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="A,B,...",
            help="The classes, which a text model chooses among; for --classify.",
        ),
    ] = None
    embedding_model: Annotated[
        str | None,
        typer.Option(
            "--embedding-model",
            metavar="ID",
            help="The model for --embed; without that, loaded beside the other one.",
            autocompletion=local_model_ids,
        ),
    ] = None
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora",
            metavar="ID",
            help="The adapter to answer with.",
            autocompletion=local_model_ids,
        ),
    ] = None
    hide_reasoning: Annotated[
        bool, typer.Option("--hide-reasoning", help="Show no thinking, the answer alone.")
    ] = False
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say whether the model fits this machine.")
    ] = False
    sampling: SamplingOptions
    engine: EngineOptions
    engine_mode: EngineModeOption = EngineMode.AUTO
    load: LoadOptions
    display: Display

    @property
    def scores(self) -> bool:
        """Whether a model with a head is to score or classify."""
        return self.score is not None or (self.classify and self.labels is None)

    def model_id(self) -> str | None:
        """Return the model that was asked for to do the work."""
        if self.embed and self.embedding_model is not None:
            return optional_model(self.model.optional_id(), self.embedding_model)
        return self.model.optional_id()

    def check_together(self) -> None:
        """Raise BadParameter for options that have no sense together."""
        texts = {"--prompt": self.prompt, "--input": self.source}
        given = [name for name, value in texts.items() if value is not None]
        if len(given) == 2:
            raise typer.BadParameter("--prompt and --input: give one of them")
        if (self.source is None) != (self.output is None):
            raise typer.BadParameter("--input and --output go together")
        for_files = {
            "--overwrite": self.overwrite,
            "--retry-failed": self.retry_failed,
            "--input-grew": self.input_grew,
            "--template": self.template is not None,
        }
        if self.image and (self.source is not None or self.embed or self.estimate):
            other = next(n for n in ("--input", "--embed", "--estimate") if n in self._modes())
            raise typer.BadParameter(f"--image is for one prompt, so {other} has none")
        unused = [name for name, is_given in for_files.items() if is_given]
        if unused and self.output is None:
            raise typer.BadParameter(f"{unused[0]} is for an --output")
        adds = [name for name in ("--retry-failed", "--input-grew") if for_files[name]]
        if self.overwrite and adds:
            raise typer.BadParameter(f"--overwrite and {adds[0]}: give one of them")
        if self.hide_reasoning and (self.output is not None or self.display.as_json):
            raise typer.BadParameter("--hide-reasoning is for answers that a terminal shows")
        if self.estimate and given:
            raise typer.BadParameter(f"--estimate loads nothing, so it takes no {given[0]}")
        if self.estimate and self.embedding_model is not None and not self.embed:
            raise typer.BadParameter("--estimate is of one model: add --embed, or give --model")
        if self.score is not None and not self.score.strip():
            raise typer.BadParameter("--score needs a query, and this one is empty")
        if self.labels is not None and not self.classify:
            raise typer.BadParameter("--labels are for --classify")
        modes = {
            "--embed": self.embed,
            "--score": self.score is not None,
            "--classify": self.classify,
            "--estimate": self.estimate,
        }
        chosen = [name for name, is_given in modes.items() if is_given]
        if len([name for name in chosen if name != "--estimate"]) > 1:
            raise typer.BadParameter(f"{chosen[0]} and {chosen[1]}: give one of them")
        if chosen:
            self._check_generates_nothing(chosen[0])

    def _modes(self) -> set[str]:
        modes = {"--input": self.source, "--embed": self.embed, "--estimate": self.estimate}
        return {name for name, value in modes.items() if value}

    def _check_generates_nothing(self, mode: str) -> None:
        generates = {
            "--system": self.system,
            "--schema": self.schema,
            "--cache": None if self.embed else self.cache,
            "--lora": None if self.labels else self.lora,
            "sampling options": self.sampling.given() or None,
        }
        unused = [name for name, value in generates.items() if value is not None]
        if unused:
            raise typer.BadParameter(f"{mode} generates nothing, so it takes no {unused[0]}")
