"""Finding models in the registry: list, path, touch."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sage.common.model_registry.errors import ModelNotFoundError, RevisionNotFoundError
from sage.common.model_registry.layout import registry_root
from sage.common.model_registry.manifest import editing_manifest, read_manifest
from sage.common.model_registry.model_id import check_model_id, check_revision

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from sage.common.model_registry.model_info import ModelInfo

_SHORTEST_COMMIT_PREFIX = 7


def list_models(*, root: str | os.PathLike[str] | None = None) -> list[ModelInfo]:
    """Every complete model, by id; revisions of one id in the order they were asked for.

    Raises ManifestCorruptError if the manifest cannot be trusted.
    """
    models = [model for model in read_manifest(registry_root(root)) if model.path.is_dir()]
    return sorted(models, key=lambda model: model.model_id)


def get_model(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> ModelInfo:
    """Return the record of a model; without a revision, of the one asked for last.

    A revision is a branch or tag it was downloaded by, its commit, or the commit's first seven or
    more digits. Raises ModelNotFoundError, RevisionNotFoundError, InvalidModelIdError or
    ManifestCorruptError.
    """
    base = registry_root(root)
    models = [model for model in read_manifest(base) if model.path.is_dir()]
    return find_model(models, model_id, revision, base)


def get_model_path(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> Path:
    """Return the folder that holds a model's files; revisions and errors as in `get_model`."""
    return get_model(model_id, revision, root=root).path


def touch_model(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> ModelInfo:
    """Note that a model is in use now, and return its new record; errors as in `get_model`.

    Raises RegistryNotWritableError where the root is read-only.
    """
    base = registry_root(root)
    get_model(model_id, revision, root=base)  # so that a wrong id creates no empty registry
    with editing_manifest(base) as models:
        touched = replace(
            find_model(models, model_id, revision, base), last_used=datetime.now(tz=UTC)
        )
        put_last(models, touched)
    return touched


def find_model(
    models: Sequence[ModelInfo], model_id: str, revision: str | None, root: Path
) -> ModelInfo:
    """Return the record of a model among `models`, which are in the order they were asked for."""
    check_model_id(model_id)
    of_id = [model for model in models if model.model_id == model_id]
    if not of_id:
        raise ModelNotFoundError(model_id, root=root, near=near_ids(model_id, models))
    if revision is None:
        return of_id[-1]
    check_revision(revision)
    for model in reversed(of_id):
        if revision in model.names:
            return model
    if len(revision) >= _SHORTEST_COMMIT_PREFIX:
        by_prefix = [model for model in of_id if model.commit.startswith(revision)]
        if len(by_prefix) == 1:
            return by_prefix[0]
    known = tuple(model.revision for model in of_id)
    raise RevisionNotFoundError(model_id, revision, known=known)


def put_last(models: list[ModelInfo], asked: ModelInfo) -> None:
    """Record `asked` as the model asked for last; its names now mean it and no other commit."""
    kept = [_without_names_of(asked, model) for model in models if not _same_commit(asked, model)]
    models[:] = [*kept, asked]


def _same_commit(one: ModelInfo, other: ModelInfo) -> bool:
    return (one.model_id, one.commit) == (other.model_id, other.commit)


def _without_names_of(asked: ModelInfo, model: ModelInfo) -> ModelInfo:
    if model.model_id != asked.model_id:
        return model
    taken = {asked.revision, *asked.aliases}
    own = [name for name in (model.revision, *model.aliases) if name not in taken]
    first, *rest = own or [model.commit]
    return replace(model, revision=first, aliases=tuple(rest))


def near_ids(model_id: str, models: Sequence[ModelInfo]) -> tuple[str, ...]:
    """Return the ids among `models` that look like one that is not there, the nearest first."""
    from difflib import get_close_matches  # only a miss pays for it

    ids = {model.model_id for model in models}
    wanted = model_id.lower()
    by_key = {key: each for each in ids for key in (each.lower(), each.lower().split("/")[-1])}
    found = get_close_matches(wanted, by_key, n=3, cutoff=0.6)
    found += get_close_matches(wanted.split("/")[-1], by_key, n=3, cutoff=0.75)
    return tuple(dict.fromkeys(by_key[key] for key in found))[:3]
