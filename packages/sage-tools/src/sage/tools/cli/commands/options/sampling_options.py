"""Options that say how to generate, by the names that vLLM gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sage.tools.cli.commands.options.named_values import named_values


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to generate; what is None is left to the model."""

    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-t", min=0.0, help="0 takes the likeliest token each time."),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", min=0.0, max=1.0, help="Sample from this share of probability."),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=-1, help="Sample from so many tokens; 0 from all of them."),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p", min=0.0, max=1.0, help="Least probability, as a share of the top one."
        ),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Make sampling repeatable.")] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")
    ] = None
    presence_penalty: Annotated[
        float | None,
        typer.Option("--presence-penalty", min=-2.0, max=2.0, help="Against tokens said before."),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        typer.Option("--frequency-penalty", min=-2.0, max=2.0, help="Against tokens said often."),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option("--repetition-penalty", min=0.01, help="Above 1: against repetition."),
    ] = None
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", min=0.001, help="Seconds, after which an answer ends as it is."),
    ] = None
    chat_template: Annotated[
        str | None,
        typer.Option("--chat-template", help="Name of the chat template, of a model with several."),
    ] = None
    thinking: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Have the model think before it answers, or not."),
    ] = None
    sampling_option: Annotated[
        list[str] | None,
        typer.Option(
            "--sampling-option",
            metavar="NAME=VALUE",
            help="Any other option of a generation, such as logprobs=5; may be repeated.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by the service's names; raises BadParameter."""
        given = {name: value for name, value in vars(self).items() if value not in (None, [])}
        others = given.pop("sampling_option", [])
        return named_values(others, given, flag="--sampling-option", example="logprobs=5")
