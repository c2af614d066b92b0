"""Whether a model's files may be loaded: nothing that runs code is, unless the user says so.

UnsafeModelError            (EngineError, ValueError)
├── PickledWeightsError     weights that can run any code when they are loaded
└── RemoteCodeError         a model that brings its own Python code
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Unpack

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.components.sage_vllm.planning.model_files import (
    BrokenModelError,
    read_config,
    read_tensors,
    safetensors_files,
)
from sage.common.core.errors import WayOut
from sage.common.model_registry.weights import is_pickled

_NO_WEIGHTS = ("dummy",)  # of vLLM's load_format: random weights, no file is read


class UnsafeModelError(EngineError, ValueError):
    """Loading the model would run code that came with it; ``files`` are the ones concerned."""

    def __init__(
        self, model_id: str, problem: str, files: tuple[str, ...], **way_out: Unpack[WayOut]
    ) -> None:
        super().__init__(model_id, problem, **way_out)
        self.files = files


class PickledWeightsError(UnsafeModelError):
    """The model has only pickled weights."""

    def __init__(self, model_id: str, files: tuple[str, ...]) -> None:
        shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        super().__init__(
            model_id,
            f"{model_id!r} has only pickled weights ({shown}), and loading those can run any code",
            files,
            hint="convert them to safetensors, or if you trust the model's owner, load them with",
            option="allow_pickle",
            value=True,
        )


class RemoteCodeError(UnsafeModelError):
    """The model needs its own Python code; ``option`` allows it."""

    def __init__(self, model_id: str, code: object, files: tuple[str, ...], option: str) -> None:
        super().__init__(
            model_id,
            f"{model_id!r} needs Python code that comes with it ({', '.join(files) or code})",
            files,
            hint="read it, and if you trust it, allow it with",
            option=f"{option}.trust_remote_code",
            value=True,
        )


def check_weights(
    model_id: str, folder: Path, arguments: Mapping[str, Any], *, allow_pickle: bool = False
) -> None:
    """Check that there are weights, that they are whole, and that they run no code.

    ``arguments`` are the engine's. Raises BrokenModelError or PickledWeightsError.
    """
    if arguments.get("load_format") in _NO_WEIGHTS:
        return
    files = safetensors_files(model_id, folder)
    for file in files:
        read_tensors(model_id, file)
    if files or any(folder.glob("*.gguf")):
        return
    pickled = pickled_files(folder)
    if not pickled:
        raise BrokenModelError(model_id, "holds no weights (no *.safetensors)", folder)
    if not allow_pickle:
        raise PickledWeightsError(model_id, tuple(file.name for file in pickled))


def pickled_files(folder: Path) -> list[Path]:
    """Return the weight files that can run code when they are loaded."""
    return sorted(file for file in folder.iterdir() if file.is_file() and is_pickled(file.name))


def check_remote_code(
    model_id: str,
    folder: Path,
    arguments: Mapping[str, Any],
    *,
    option: str = "engine",
    known_types: Collection[str] = (),
) -> None:
    """Check that the model runs without code of its own, or that the user allows that code.

    A model brings a configuration class of its own if config.json has one under ``auto_map``; it
    is not needed for a ``model_type`` that the engine has code for, ``known_types``. Raises
    RemoteCodeError, BrokenModelError.
    """
    if arguments.get("trust_remote_code"):
        return
    config = read_config(model_id, folder)
    auto_map = config.get("auto_map")
    if not isinstance(auto_map, Mapping) or "AutoConfig" not in auto_map:
        return
    if config.get("model_type") in known_types:
        return
    names = tuple(sorted(file.name for file in folder.glob("*.py")))
    raise RemoteCodeError(model_id, auto_map, names, option)
