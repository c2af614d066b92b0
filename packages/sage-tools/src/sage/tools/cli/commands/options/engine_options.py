"""Options that the commands which load a model share: `run`, `start` and `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from sage.tools.cli.commands.options.named_values import named_values

_DTYPES = ("auto", "float32", "float16", "bfloat16")


class EngineMode(StrEnum):
    """Where an engine runs."""

    AUTO = "auto"
    INLINE = "inline"
    PROCESS = "process"


EngineModeOption = Annotated[
    EngineMode,
    typer.Option("--engine-mode", help="Run the engine in this process or one of its own."),
]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Whether a model may be fetched, and what may be loaded."""

    auto_download: Annotated[
        bool, typer.Option("--auto-download", help="Download the model where it is not local.")
    ] = False
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights that can run code when loaded.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How vLLM's engine is to be set up."""

    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory-utilization", min=0.0, max=1.0, help="The engine's share of GPU memory."
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len", min=1, help="Longest prompt and answer together, in tokens."
        ),
    ] = None
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Compute in auto, float32, float16 or bfloat16.")
    ] = None
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option("--tensor-parallel-size", min=1, help="GPUs that share the model's weights."),
    ] = None

    engine_option: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-option",
            metavar="NAME=VALUE",
            help="Any other option of vLLM's engine; may be repeated.",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of vLLM's engine that were given, by vLLM's names."""
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise typer.BadParameter(
                f"{self.dtype!r} is not one of {', '.join(_DTYPES)}", param_hint="--dtype"
            )
        given = {name: value for name, value in vars(self).items() if value is not None}
        return named_values(
            given.pop("engine_option", []),
            given,
            flag="--engine-option",
            example="trust_remote_code=true",
        )
