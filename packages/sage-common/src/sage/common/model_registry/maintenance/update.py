"""Whether the hub has something newer, and getting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.common.model_registry.download.download import download_model
from sage.common.model_registry.download.transfer import retrying
from sage.common.model_registry.errors import NotFromHubError
from sage.common.model_registry.hub.client import Hub
from sage.common.model_registry.lookup import get_model
from sage.common.model_registry.model_id import is_commit
from sage.common.model_registry.model_traits import own_tags
from sage.common.model_registry.weights import is_pickled

if TYPE_CHECKING:
    import os

    from sage.common.model_registry.download.progress import Progress
    from sage.common.model_registry.model_info import ModelInfo


@dataclass(frozen=True, kw_only=True)
class UpdateCheck:
    """A model, and the commit that its revision means on the hub now."""

    model: ModelInfo
    latest: str

    @property
    def outdated(self) -> bool:
        """Whether the hub has another commit."""
        return self.latest != self.model.commit


def check_update(
    model_id: str,
    revision: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> UpdateCheck:
    """Ask the hub what a model's revision means now; a model pinned to a commit is never outdated.

    Raises as `get_model` and `download_model`, and NotFromHubError for an imported model.
    """
    model = get_model(model_id, revision, root=root)
    if model.source != "hub":
        raise NotFromHubError(model_id, "cannot be updated")
    if is_commit(model.revision):
        return UpdateCheck(model=model, latest=model.commit)
    hub = Hub(model_id, token=token)
    return UpdateCheck(model=model, latest=retrying(lambda: hub.commit_of(model.revision)))


def update_model(
    model_id: str,
    revision: str | None = None,
    progress: Progress = True,
    *,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
    max_workers: int = 8,
) -> ModelInfo:
    """Download what a model's revision means now; returns its record, unchanged if it is current.

    Files that did not change are shared with the old commit, which stays: a running engine may need
    it. `delete_model(model_id, old_commit)` frees it. Raises as `check_update`.
    """
    check = check_update(model_id, revision, root=root, token=token)
    if not check.outdated:
        return check.model
    quantisation = check.model.tags.get("quantisation")
    return download_model(
        f"{model_id}:{quantisation}" if quantisation else model_id,
        check.model.revision,
        progress,
        root=root,
        token=token,
        allow_pickle=any(is_pickled(path) for path in check.model.files),
        tags=own_tags(check.model.tags),
        max_workers=max_workers,
    )
