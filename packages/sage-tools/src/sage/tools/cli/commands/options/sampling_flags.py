"""Options that say how to generate, by the names that vLLM gives them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", "-t", min=0.0, help="0 takes the likeliest token each time."),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=0.0, max=1.0, help="Sample from this share of probability."),
]
TopK = Annotated[
    int | None,
    typer.Option("--top-k", min=-1, help="Sample from so many tokens; 0 from all of them."),
]
MinP = Annotated[
    float | None,
    typer.Option("--min-p", min=0.0, max=1.0, help="Least probability, as a share of the top one."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Make sampling repeatable.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")
]
PresencePenalty = Annotated[
    float | None,
    typer.Option("--presence-penalty", min=-2.0, max=2.0, help="Against tokens said before."),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option("--frequency-penalty", min=-2.0, max=2.0, help="Against tokens said often."),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", min=0.01, help="Above 1: against repetition."),
]
Deadline = Annotated[
    float | None,
    typer.Option("--deadline", min=0.001, help="Seconds, after which an answer ends as it is."),
]


def sampling_options(**given: Any) -> dict[str, Any]:
    """The options that were given, by the service's names."""
    return {name: value for name, value in given.items() if value not in (None, [])}
