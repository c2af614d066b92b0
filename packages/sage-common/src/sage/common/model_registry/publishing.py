"""The one step that makes a staged model a model of the registry."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sage.common.core.file_locks import file_lock
from sage.common.model_registry.layout import (
    check_inside,
    lock_path,
    model_folder,
    move_into_place,
    move_to_trash,
    remove_tree,
    writing,
)
from sage.common.model_registry.lookup import put_last
from sage.common.model_registry.manifest import editing_manifest
from sage.common.model_registry.model_info import ModelInfo
from sage.common.model_registry.model_traits import read_traits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from sage.common.model_registry.model_info import FileRecord, Tag


@contextmanager
def writing_model(
    root: Path, model_id: str, *, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the right to stage and publish a model; `on_wait` is called if another has it now."""
    from filelock import Timeout  # see file_lock()

    path = lock_path(root, model_id)
    with writing(root, model_id):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = file_lock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def publish(
    root: Path,
    staged: Path,
    *,
    model_id: str,
    revision: str,
    commit: str,
    files: Mapping[str, FileRecord],
    tags: Mapping[str, Tag] | None,
    source: str = "hub",
) -> ModelInfo:
    """Move a complete, verified folder into place, then record it; the caller holds the model.

    A process killed between the two leaves a folder that is not listed, which the next download
    takes back into staging.
    """
    model = ModelInfo(
        model_id=model_id,
        revision=revision,
        commit=commit,
        path=model_folder(root, model_id, commit),
        size_bytes=sum(record.size for record in files.values()),
        last_used=datetime.now(tz=UTC),
        tags={**read_traits(staged), **(tags or {})},
        files=dict(files),
        source=source,
    )
    replaced = None
    with editing_manifest(root) as models:
        check_inside(root, model.path)
        if model.path.exists():
            replaced = move_to_trash(root, model.path)
        move_into_place(staged, model.path)
        model = with_names_of(models, model)
        put_last(models, model)
    if replaced is not None:
        remove_tree(replaced)
    return model


def with_names_of(models: list[ModelInfo], model: ModelInfo) -> ModelInfo:
    """Keep the names by which the same commit was asked for before."""
    for known in models:
        if (known.model_id, known.commit) == (model.model_id, model.commit):
            names = dict.fromkeys((*known.aliases, known.revision))
            names.pop(model.revision, None)
            return replace(model, aliases=tuple(names))
    return model
