"""Which files of a repository to download."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

from sage.common.model_registry.errors import EmptySelectionError, PickledWeightsError
from sage.common.model_registry.model_id import check_file_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage.common.model_registry.model_info import FileRecord

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")
_SAFE = ("*.safetensors", "*.gguf")
# The same weights for other engines; where safetensors are, these only cost disk and time.
_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "*.ot")


def select_files(
    model_id: str,
    files: Mapping[str, FileRecord],
    *,
    allow_patterns: str | Sequence[str] | None,
    ignore_patterns: str | Sequence[str] | None,
    allow_pickle: bool,
) -> dict[str, FileRecord]:
    """The files to download: those that match, weights as safetensors where there are any.

    Pickled files come only with `allow_pickle`, and beside safetensors only where `allow_patterns`
    asks for them. Raises PickledWeightsError, EmptySelectionError, or
    InvalidModelIdError for a path that does not stay inside the model.
    """
    for path in files:
        check_file_path(path)
    chosen = {
        path: record
        for path, record in files.items()
        if (allow_patterns is None or _matches(path, allow_patterns))
        and not (ignore_patterns is not None and _matches(path, ignore_patterns))
    }
    if any(path.endswith(".safetensors") for path in chosen) and allow_patterns is None:
        chosen = _without(chosen, (*_PICKLED, *_OTHER_FORMATS))
        if any(fnmatch(path, "model*.safetensors") for path in chosen):
            chosen = _without(chosen, ("consolidated*.safetensors",))  # the same weights again
    pickled = tuple(path for path in chosen if is_pickled(path))
    if pickled and not allow_pickle:
        if not any(_matches(path, _SAFE) for path in chosen):
            raise PickledWeightsError(model_id, pickled)
        chosen = _without(chosen, _PICKLED)
    if not chosen:
        raise EmptySelectionError(model_id, files_in_repository=len(files))
    return chosen


def is_pickled(path: str) -> bool:
    """Whether a file's name is that of weights that can run code when loaded."""
    return _matches(path, _PICKLED)


def _matches(path: str, patterns: str | Sequence[str]) -> bool:
    each = (patterns,) if isinstance(patterns, str) else patterns
    # As the hub's client reads them: a pattern for a folder means all that is in it.
    return any(fnmatch(path, f"{one}*" if one.endswith("/") else one) for one in each)


def _without(files: dict[str, FileRecord], patterns: Sequence[str]) -> dict[str, FileRecord]:
    return {path: record for path, record in files.items() if not _matches(path, patterns)}
