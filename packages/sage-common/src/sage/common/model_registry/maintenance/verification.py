"""Checking a model against its recorded checksums, offline, and fetching only what is bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.common.model_registry.checksums import find_problems, find_size_problems
from sage.common.model_registry.download.progress import watcher_of
from sage.common.model_registry.download.transfer import Transfer
from sage.common.model_registry.errors import NotFromHubError
from sage.common.model_registry.hub.client import Hub
from sage.common.model_registry.layout import registry_root
from sage.common.model_registry.lookup import find_model
from sage.common.model_registry.manifest import read_manifest

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from sage.common.model_registry.download.progress import Progress
    from sage.common.model_registry.model_info import ModelInfo


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What checking a model found."""

    model: ModelInfo
    problems: Mapping[str, str]
    """File path -> "missing", "size" or "checksum"; empty if all is well."""

    @property
    def ok(self) -> bool:
        """Whether every file is there and right."""
        return not self.problems


def verify_model(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> VerificationReport:
    """Read every file of a model and compare it with the manifest; needs no network.

    Raises ModelNotFoundError, RevisionNotFoundError, InvalidModelIdError or ManifestCorruptError.
    """
    base = registry_root(root)
    # Also a model whose folder is gone: that is what this is to find.
    model = find_model(read_manifest(base), model_id, revision, base)
    return VerificationReport(model=model, problems=find_problems(model.path, model.files))


def check_sizes(*, root: str | os.PathLike[str] | None = None) -> list[VerificationReport]:
    """Look at every recorded model, only for files that are missing or of the wrong size.

    That takes no longer than listing them. Raises ManifestCorruptError.
    """
    return [
        VerificationReport(model=model, problems=find_size_problems(model.path, model.files))
        for model in read_manifest(registry_root(root))
    ]


def repair_model(
    model_id: str,
    revision: str | None = None,
    progress: Progress = True,
    *,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
    max_workers: int = 8,
) -> VerificationReport:
    """Verify a model and fetch its bad files again; returns what was wrong.

    Asks the hub only if something is wrong. Raises as `verify_model` and `download_model`, and
    NotFromHubError for a model imported from a folder.
    """
    report = verify_model(model_id, revision, root=root)
    if not report.ok:
        model = report.model
        if model.source != "hub":
            raise NotFromHubError(model_id, f"cannot be repaired: {', '.join(report.problems)}")
        Transfer(
            root=registry_root(root),
            hub=Hub(model_id, token=token),
            revision=model.revision,
            commit=model.commit,
            max_workers=max_workers,
            watch=watcher_of(progress),
        ).repair(model)
    return report
