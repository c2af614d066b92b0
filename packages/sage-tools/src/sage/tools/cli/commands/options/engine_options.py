"""Options that the commands which load a model share: `run`, `start` and `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

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
AutoDownload = Annotated[
    bool, typer.Option("--auto-download", help="Download the model where it is not local.")
]


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

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of vLLM's engine that were given, by vLLM's names."""
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise typer.BadParameter(
                f"{self.dtype!r} is not one of {', '.join(_DTYPES)}", param_hint="--dtype"
            )
        return {name: value for name, value in vars(self).items() if value is not None}
