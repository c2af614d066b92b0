"""Which files of a repository to download."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from sage.common.model_registry.errors import EmptySelectionError
from sage.common.model_registry.model_id import check_file_path
from sage.common.model_registry.weight_errors import GGUFError, PickledWeightsError
from sage.common.model_registry.weights import (
    gguf_is_supported,
    is_module_folder,
    is_pickled,
    is_pickled_weights,
    matches,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage.common.model_registry.model_info import FileRecord

# The same weights for other engines; where vLLM has its own, these only cost disk and time.
_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "*.ot")
# Q4_K_M, IQ2_XXS, BF16, UD-Q4_K_XL: at the end of a file's name, or the name of its folder.
_QUANTISATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|B?F16|F32))"
    r"(?:-\d{5}-of-\d{5})?(?:/[^/]*)?\.gguf$",
    re.IGNORECASE,
)


def select_files(
    model_id: str,
    files: Mapping[str, FileRecord],
    *,
    allow_patterns: str | Sequence[str] | None,
    ignore_patterns: str | Sequence[str] | None,
    allow_pickle: bool,
    quantisation: str | None = None,
) -> dict[str, FileRecord]:
    """Return the files to download: those that match, weights as safetensors where there are any.

    Files are chosen folder by folder, since each module of an embedding model has a folder and
    weights of its own. Pickled weights come only with `allow_pickle`, and beside safetensors only
    where `allow_patterns` asks for them. Of a repository in GGUF one `quantisation` is chosen.

    Raises PickledWeightsError, GGUFError, EmptySelectionError, or InvalidModelIdError for a path
    that does not stay inside the model.
    """
    for path in files:
        check_file_path(path, model_id=model_id)
    chosen = {
        path: record
        for path, record in files.items()
        if (allow_patterns is None or matches(path, allow_patterns))
        and not (ignore_patterns is not None and matches(path, ignore_patterns))
    }
    if allow_patterns is None:
        chosen = _best_formats(chosen)
        chosen = _one_quantisation(model_id, chosen, quantisation)
    pickled = tuple(path for path in chosen if is_pickled(path))
    if pickled and not allow_pickle:
        needed = tuple(path for path in pickled if _is_needed(path, chosen))
        if needed:
            raise PickledWeightsError(model_id, needed)
        chosen = _without(chosen, pickled)
    if not chosen:
        raise EmptySelectionError(model_id, files_in_repository=len(files))
    return chosen


def _best_formats(files: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Leave out what repeats the weights of a folder in a format that is not the best there."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in files:
        by_folder[_folder(path)].append(path)
    superfluous: set[str] = set()
    loadable = False
    for paths in by_folder.values():
        if any(path.endswith(".safetensors") for path in paths):
            loadable = True
            superfluous |= {path for path in paths if is_pickled(path)}
            if any(matches(path.rpartition("/")[2], "model*.safetensors") for path in paths):
                superfluous |= {
                    path
                    for path in paths
                    if matches(path.rpartition("/")[2], "consolidated*.safetensors")
                }
    if loadable:
        superfluous |= {path for path in files if matches(path, _OTHER_FORMATS)}
    return _without(files, superfluous)


def _is_needed(path: str, files: Mapping[str, FileRecord]) -> bool:
    """Whether a model lacks weights without this pickled file."""
    folder = _folder(path)
    if not is_pickled_weights(path):
        return False
    if any(_folder(other) == folder and other.endswith(".gguf") for other in files):
        return False
    if folder == "" or is_module_folder(folder):
        return True
    # A folder of a trainer's, unless nothing else has weights.
    return not any(other.endswith((".safetensors", ".gguf")) for other in files)


def _one_quantisation(
    model_id: str, files: dict[str, FileRecord], wanted: str | None
) -> dict[str, FileRecord]:
    """Keep only one quantisation of a repository whose weights are all in GGUF."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in files:
        if path.endswith(".gguf"):
            found = _QUANTISATION.search(path)
            by_name[found[1].upper() if found else "?"].append(path)
    if any(is_pickled_weights(path) and _folder(path) == "" for path in files):
        return _without(files, {path for paths in by_name.values() for path in paths})
    if not by_name and wanted is None:
        return files
    names = tuple(sorted(by_name))
    name = wanted.upper() if wanted else (names[0] if len(names) == 1 else None)
    if not gguf_is_supported() or name not in by_name:
        raise GGUFError(model_id, names, wanted=wanted, supported=gguf_is_supported())
    others = {path for other in names if other != name for path in by_name[other]}
    return _without(files, others)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _without(
    files: Mapping[str, FileRecord], left_out: Sequence[str] | set[str]
) -> dict[str, FileRecord]:
    return {path: record for path, record in files.items() if path not in left_out}
