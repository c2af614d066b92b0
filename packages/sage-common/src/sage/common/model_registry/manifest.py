"""The manifest: reading it, and changing it whole or not at all.

Its models are kept in the order in which they were asked for, last one at the end: that order, not
a clock, decides which revision `get_model_path(model_id)` means.

A reader needs no lock, because the file is only ever replaced in one step. A writer holds the lock
from reading to replacing, so that no change of another process is lost.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sage.common.core.durable_files import write_whole
from sage.common.core.errors import json_problem
from sage.common.core.file_locks import file_lock
from sage.common.model_registry.earlier_manifest import earlier_models
from sage.common.model_registry.errors import (
    EarlierManifestError,
    InvalidModelIdError,
    ManifestCorruptError,
    ManifestVersionError,
)
from sage.common.model_registry.layout import manifest_path, writing
from sage.common.model_registry.model_info import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1


def read_manifest(root: Path) -> list[ModelInfo]:
    """Every recorded model, the one asked for last at the end; empty for a root not used yet."""
    path = manifest_path(root)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except IsADirectoryError as error:
        raise ManifestCorruptError(path, "it is a folder") from error
    except UnicodeDecodeError as error:
        raise ManifestCorruptError(path, f"it is not UTF-8 ({error.reason})") from error
    try:
        return _parse(root, path, text)
    except ManifestCorruptError:
        raise
    except json.JSONDecodeError as error:
        raise ManifestCorruptError(
            path, f"it is not JSON ({json_problem(error)}, line {error.lineno})"
        ) from error
    except InvalidModelIdError as error:
        raise ManifestCorruptError(
            path, f"invalid {error.what} {error.given!r}: {error.reason}"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ManifestCorruptError(path, f"{type(error).__name__}: {error}") from error


def _parse(root: Path, path: Path, text: str) -> list[ModelInfo]:
    raw = json.loads(text)
    if (earlier := earlier_models(raw)) is not None:
        raise EarlierManifestError(path, len(earlier))
    version = raw["version"]
    if isinstance(version, int) and version > VERSION:
        raise ManifestVersionError(path, version, supported=VERSION)
    if version != VERSION:
        raise ManifestCorruptError(path, f"it has version {version!r}")
    models = [ModelInfo.from_json(root, entry) for entry in raw["models"]]
    listed: set[Path] = set()
    for model in models:
        if model.path in listed:
            raise ManifestCorruptError(path, f"it lists {model.model_id}/{model.commit} twice")
        listed.add(model.path)
    return models


@contextmanager
def editing_manifest(root: Path) -> Iterator[list[ModelInfo]]:
    """Lock the manifest, lend its models for change, and replace it if they did change."""
    with writing(root), locked_manifest(root):
        models = read_manifest(root)
        before = list(models)
        yield models
        if models != before:
            write_manifest(manifest_path(root), models)


@contextmanager
def locked_manifest(root: Path) -> Iterator[None]:
    """Keep every other writer of the manifest out."""
    root.mkdir(parents=True, exist_ok=True)
    with file_lock(f"{manifest_path(root)}.lock"):
        yield


def write_manifest(path: Path, models: list[ModelInfo]) -> None:
    """Replace the manifest in one step, for good; the caller holds its lock."""
    # One model per line: cheap to write, and a diff or a grep of it means something.
    lines = ",\n".join(json.dumps(model.to_json(), ensure_ascii=True) for model in models)
    write_whole(path, f'{{"version": {VERSION}, "models": [\n{lines}\n]}}\n')
