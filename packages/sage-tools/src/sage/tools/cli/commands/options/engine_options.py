"""Options that the commands which load a model share: `run`, `start` and `bench`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

_DTYPES = ("auto", "float32", "float16", "bfloat16")


class EngineMode(StrEnum):
    """Where an engine runs."""

    AUTO = "auto"
    INLINE = "inline"
    PROCESS = "process"


GpuMemoryUtilization = Annotated[
    float | None,
    typer.Option(
        "--gpu-memory-utilization", min=0.0, max=1.0, help="The engine's share of GPU memory."
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option("--max-model-len", min=1, help="Longest prompt and answer together, in tokens."),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Compute in auto, float32, float16 or bfloat16.")
]
TensorParallelSize = Annotated[
    int | None,
    typer.Option("--tensor-parallel-size", min=1, help="GPUs that share the model's weights."),
]
AutoDownload = Annotated[
    bool, typer.Option("--auto-download", help="Download the model where it is not local.")
]
EngineModeOption = Annotated[
    EngineMode,
    typer.Option("--engine-mode", help="Run the engine in this process or one of its own."),
]


def engine_arguments(
    *,
    gpu_memory_utilization: float | None,
    max_model_len: int | None,
    dtype: str | None,
    tensor_parallel_size: int | None,
) -> dict[str, Any]:
    """The arguments of vLLM's engine that were given, by vLLM's names."""
    if dtype is not None and dtype not in _DTYPES:
        raise typer.BadParameter(
            f"{dtype!r} is not one of {', '.join(_DTYPES)}", param_hint="--dtype"
        )
    given = {
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_model_len": max_model_len,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
    }
    return {name: value for name, value in given.items() if value is not None}
