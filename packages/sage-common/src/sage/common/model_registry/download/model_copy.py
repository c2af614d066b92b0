"""copy_model(): a model from another machine's registry, in pieces."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from sage.common.model_registry.download.staging import Staging
from sage.common.model_registry.errors import ModelNotFoundError, RevisionNotFoundError
from sage.common.model_registry.layout import (
    check_disk,
    model_folder,
    registry_root,
    staging_folder,
)
from sage.common.model_registry.lookup import get_model
from sage.common.model_registry.publishing import publish, writing_model
from sage.common.model_registry.weight_errors import IntegrityError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from sage.common.model_registry.model_info import ModelInfo

PIECE_BYTES = 4 << 20
_AHEAD = 3  # pieces that are on their way while one is written


def copy_model(
    wanted: ModelInfo,
    read: Callable[[str, int], Future[bytes]],
    *,
    root: str | os.PathLike[str] | None = None,
) -> ModelInfo:
    """Copy a model into the registry, unless it is there; returns its record here.

    Of several that copy it at once, one does, and the others wait for it. Files that an earlier
    attempt left whole are kept, and every file is verified before the model is listed.

    Args:
        wanted: the model's record in the other registry.
        read: begins to read PIECE_BYTES, or what is left, of a file at an offset.
        root: the registry's root here.

    Raises InsufficientDiskError, RegistryNotWritableError, IntegrityError, ManifestCorruptError,
    and what reading raises. After any of them the registry is as it was.
    """
    base, model_id, files = registry_root(root), wanted.model_id, wanted.files
    with writing_model(base, model_id):
        with suppress(ModelNotFoundError, RevisionNotFoundError):
            return get_model(model_id, wanted.commit, root=base)
        folder = staging_folder(base, model_id, wanted.commit)
        staging = Staging(folder, files)
        staging.prepare([model_folder(base, model_id, wanted.commit)])
        missing = [*staging.remove_bad(files)]
        check_disk(base, model_id, sum(files[path].size for path in missing))
        for path in missing:
            _copy(path, files[path].size, folder / path, read)
        if bad := staging.remove_bad(missing):
            hint = "Try again, and verify the model where it is copied from."
            raise IntegrityError(model_id, tuple(bad), hint=hint)
        return publish(
            base,
            folder,
            model_id=model_id,
            revision=wanted.revision,
            commit=wanted.commit,
            files=files,
            tags=wanted.tags,
            source=wanted.source,
        )


def _copy(path: str, size: int, target: Path, read: Callable[[str, int], Future[bytes]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    coming: deque[Future[bytes]] = deque()
    with target.open("wb") as file:
        for offset in range(0, size, PIECE_BYTES):
            coming.append(read(path, offset))
            if len(coming) > _AHEAD:
                file.write(coming.popleft().result())
        for piece in coming:
            file.write(piece.result())
