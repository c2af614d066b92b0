"""Every error of the model registry.

::

    ModelRegistryError               (SageError)
    ├── InvalidModelIdError          (ValueError)       an id, revision or file path not allowed
    ├── ModelNotFoundError           (LookupError)      not in the registry
    │   └── HubModelNotFoundError                       not on the hub either
    ├── RevisionNotFoundError        (LookupError)      the model is there, this revision is not
    ├── InvalidModelFolderError      (ValueError)       a folder to import that holds no model
    ├── EmptySelectionError          (LookupError)      no file of the model was asked for
    ├── NotFromHubError              (LookupError)      imported, so the hub cannot help
    ├── PickledWeightsError          (ValueError)       only weights that can run code when loaded
    ├── GGUFError                    (ValueError)       GGUF that cannot be loaded, or which of it
    ├── IncompleteModelError         (ValueError)       weights that its own files name are missing
    ├── IntegrityError               (ValueError)       bytes that differ from their checksum
    ├── ManifestCorruptError         (ValueError)       metadata.json cannot be trusted
    │   ├── EarlierManifestError                        ... because isage 0.1 or 0.2 wrote it
    │   └── ManifestVersionError                        ... because a newer SAGE wrote it
    ├── HubAccessError               (PermissionError)  the hub refuses these credentials
    │   └── GatedModelError                             the model's terms are not accepted yet
    ├── HubUnavailableError          (ConnectionError)  no usable answer from the hub
    ├── InsufficientDiskError        (OSError)          the disk cannot hold it
    └── RegistryNotWritableError     (PermissionError)  the root cannot be written

Each says what failed and with which value (`problem`) and what to do next (`hint`); `str(error)` is
both. Facts are attributes. All of them survive pickling, so that they cross process borders whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.errors import SageError

if TYPE_CHECKING:
    from pathlib import Path


class ModelRegistryError(SageError):
    """Base of every error of the model registry."""

    def __init__(self, problem: str, *, hint: str, model_id: str | None = None) -> None:
        super().__init__(problem, hint=hint)
        self.model_id = model_id


class InvalidModelIdError(ModelRegistryError, ValueError):
    """An id, a revision or a repository path that may not become a path on this disk."""

    def __init__(
        self, value: str, reason: str, *, what: str = "model id", model_id: str | None = None
    ) -> None:
        folder = what == "model id" and value[:1] in (".", "/", "~")
        example = {
            "model id": "Use `<name>` or `<owner>/<name>`, such as meta-llama/Llama-3-8B-Instruct.",
            "revision": "Use a branch, a tag or a commit, for example main.",
        }.get(what, "Nothing was written. Report this model to its owner or to the hub.")
        if folder:
            example = f"To use a folder, import it: `sage llm model import <owner>/<name> {value}`."
        of_model = f" of model {model_id!r}" if model_id else ""
        super().__init__(
            f"Invalid {what} {value!r}{of_model}: {reason}.", hint=example, model_id=model_id
        )
        self.what = what
        self.given = value
        self.reason = reason


class ModelNotFoundError(ModelRegistryError, LookupError):
    """The model is not in the registry; `near` holds ids that look like it."""

    def __init__(
        self,
        model_id: str,
        *,
        root: Path | None = None,
        near: tuple[str, ...] = (),
        problem: str | None = None,
        hint: str | None = None,
    ) -> None:
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        way_out = (
            f"Use {near[0]}, or get another one: `sage llm model download --model <owner>/<name>`."
            if near
            else f"Run `sage llm model download --model {model_id}`."
        )
        where = f" at {root}" if root is not None else ""
        super().__init__(
            problem or f"Model {model_id!r} is not in the registry{where}.{meant}",
            hint=hint or way_out,
            model_id=model_id,
        )
        self.root = root
        self.near = near


def _meant(near: tuple[str, ...]) -> str:
    return f" Did you mean {' or '.join(near)}, which the registry has?" if near else ""


class HubModelNotFoundError(ModelNotFoundError):
    """The hub has no such model, or shows it only to others; `near` are ids of the registry."""

    def __init__(self, model_id: str, *, near: tuple[str, ...] = ()) -> None:
        super().__init__(
            model_id,
            near=near,
            problem=f"Model {model_id!r} is not on the hub, or it is private.{_meant(near)}",
            hint="Check the spelling; for a private model run `hf auth login` or set HF_TOKEN, "
            f"then `sage llm model download --model {model_id}` again.",
        )


class RevisionNotFoundError(ModelRegistryError, LookupError):
    """The model exists, this revision of it does not; `known` holds those that do."""

    def __init__(
        self, model_id: str, revision: str, *, known: tuple[str, ...] = (), on_hub: bool = False
    ) -> None:
        where = "on the hub" if on_hub else "in the registry"
        have = f" Present: {', '.join(known)}." if known else ""
        hint = (
            "Check the branch, tag or commit on the model's page."
            if on_hub
            else f"Run `sage llm model download --model {model_id} --revision {revision}`."
        )
        super().__init__(
            f"Model {model_id!r} has no revision {revision!r} {where}.{have}",
            hint=hint,
            model_id=model_id,
        )
        self.revision = revision
        self.known = known
        self.on_hub = on_hub


class InvalidModelFolderError(ModelRegistryError, ValueError):
    """A folder given to import that is missing or holds no model."""

    def __init__(
        self, model_id: str, folder: Path, reason: str, *, hint: str | None = None
    ) -> None:
        super().__init__(
            f"Cannot import {model_id!r} from {str(folder)!r}: {reason}.",
            hint=hint or "Give the folder that holds the model's config.json and its weights.",
            model_id=model_id,
        )
        self.folder = folder
        self.reason = reason


class EmptySelectionError(ModelRegistryError, LookupError):
    """The patterns given leave no file to download, or the repository has none."""

    def __init__(self, model_id: str, *, files_in_repository: int) -> None:
        super().__init__(
            f"None of the {files_in_repository} files of model {model_id!r} is to be downloaded.",
            hint="Check the patterns, and the files on the model's page.",
            model_id=model_id,
        )
        self.files_in_repository = files_in_repository


class NotFromHubError(ModelRegistryError, LookupError):
    """The model was imported from a folder, so the hub has nothing for it."""

    def __init__(self, model_id: str, problem: str) -> None:
        super().__init__(
            f"Model {model_id!r} was imported from a folder and {problem}.",
            hint=f"Run `sage llm model import {model_id} <folder>` again.",
            model_id=model_id,
        )


class ManifestCorruptError(ModelRegistryError, ValueError):
    """The manifest cannot be trusted; nothing was changed."""

    def __init__(self, path: Path, reason: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"The model manifest {str(path)!r} cannot be used: {reason}.",
            hint=hint
            or f"Restore it from a backup, or move it aside (`mv '{path}' '{path}.bad'`) and run "
            "`sage llm model download --model <id>` for each model: files that are already there "
            "are checked and not fetched again.",
        )
        self.path = path
        self.reason = reason


class EarlierManifestError(ManifestCorruptError):
    """The manifest was written by isage 0.1 or 0.2."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(
            path,
            f"it was written by an earlier SAGE (isage 0.1 or 0.2) and lists {count} "
            f"model{'' if count == 1 else 's'}",
            hint="Run `sage llm model migrate`: it checks them and takes them over as they lie "
            "there, and keeps the earlier manifest beside the new one.",
        )
        self.count = count


class ManifestVersionError(ManifestCorruptError):
    """The manifest was written by a newer SAGE."""

    def __init__(self, path: Path, version: int, *, supported: int) -> None:
        super().__init__(
            path,
            f"it has version {version}, and this SAGE reads version {supported}",
            hint="Run `pip install --upgrade isage-tools`, or point SAGE_VLLM_MODEL_ROOT at "
            "another folder.",
        )
        self.version = version
        self.supported = supported


class HubAccessError(ModelRegistryError, PermissionError):
    """The hub refuses the credentials that were sent."""

    def __init__(
        self, model_id: str, *, problem: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(
            problem or f"The hub refused the access token sent for model {model_id!r}.",
            hint=hint
            or "Run `hf auth login`, or set HF_TOKEN to a valid token, then "
            f"`sage llm model download --model {model_id}` again.",
            model_id=model_id,
        )


class GatedModelError(HubAccessError):
    """The model's owner wants its terms accepted first."""

    def __init__(self, model_id: str, *, endpoint: str = "https://huggingface.co") -> None:
        super().__init__(
            model_id,
            problem=f"Model {model_id!r} is gated: its owner wants its terms accepted first.",
            hint=f"Accept them at {endpoint}/{model_id}, run `hf auth login` (or set HF_TOKEN), "
            f"then `sage llm model download --model {model_id}` again.",
        )


class HubUnavailableError(ModelRegistryError, ConnectionError):
    """No usable answer from the hub.

    `kept` says that files which arrived are kept for the next attempt; `near` are ids of the
    registry that look like the one asked for.
    """

    def __init__(
        self,
        model_id: str,
        reason: str,
        *,
        hint: str | None = None,
        kept: bool = False,
        near: tuple[str, ...] = (),
    ) -> None:
        again = f"`sage llm model download --model {model_id}` again"
        super().__init__(
            f"The hub did not deliver model {model_id!r}: {reason}.{_meant(near)}",
            hint=hint
            or f"Check the network (and HF_ENDPOINT, if set), then run {again}"
            f"{': complete files are kept' if kept else ''}.",
            model_id=model_id,
        )
        self.reason = reason
        self.kept = kept
        self.near = near


class InsufficientDiskError(ModelRegistryError, OSError):
    """The disk under the root cannot hold the model."""

    def __init__(self, model_id: str, root: Path, *, needed: int | None, free: int) -> None:
        amount = f"needs {needed:,} more bytes" if needed is not None else "ran out of space"
        super().__init__(
            f"Model {model_id!r} {amount}, and the disk under {str(root)!r} has {free:,} free.",
            hint="Free space with `sage llm model prune` or `sage llm model delete`, or set "
            "SAGE_VLLM_MODEL_ROOT to a folder on a larger disk.",
            model_id=model_id,
        )
        self.root = root
        self.needed = needed
        self.free = free


class RegistryNotWritableError(ModelRegistryError, PermissionError):
    """The root, or something in it, may not be written by this user."""

    def __init__(self, root: Path, reason: str) -> None:
        super().__init__(
            f"The model registry at {str(root)!r} cannot be written: {reason}.",
            hint="Set SAGE_VLLM_MODEL_ROOT to a folder that you can write, or change its owner.",
        )
        self.root = root
        self.reason = reason
