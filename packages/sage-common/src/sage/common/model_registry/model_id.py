"""What may become part of a path: model ids, revisions, and file paths of a repository.

Everything here comes from a user, a manifest or a remote machine, and ends up in a path under the
root. So it is checked before any path is built, and nothing that could climb out ever is one.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sage.common.model_registry.errors import InvalidModelIdError

# The hub's own rules (letters, digits, "-", "_", "."; no "--" or ".."), which also keep ids apart
# from the registry's own names: those begin with a dot.
_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+@-]{0,198}[A-Za-z0-9_+@])?")
_RESERVED = frozenset({"metadata.json", "metadata.json.lock"})


def check_model_id(model_id: str) -> str:
    """Return `model_id`, or raise InvalidModelIdError if it may not become a path."""
    if not isinstance(model_id, str):
        raise InvalidModelIdError(repr(model_id), "it must be a string")
    segments = model_id.split("/")
    if len(segments) > 2:
        raise InvalidModelIdError(model_id, "it has more than one '/'")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment):
            raise InvalidModelIdError(
                model_id,
                "each part is 1 to 96 letters, digits, '-', '_' or '.', "
                "and neither begins nor ends with '-' or '.'",
            )
    if "--" in model_id or ".." in model_id:
        raise InvalidModelIdError(model_id, "'--' and '..' are not allowed")
    if segments[0].lower() in _RESERVED:
        raise InvalidModelIdError(model_id, "the registry uses this name itself")
    if _COMMIT.fullmatch(segments[-1].lower()):
        raise InvalidModelIdError(model_id, "a part that looks like a commit is not allowed")
    return model_id


def split_quantisation(model_id: str) -> tuple[str, str | None]:
    """Return an id, and the quantisation that it names behind a colon: "owner/name:Q4_K_M"."""
    if not isinstance(model_id, str):
        raise InvalidModelIdError(repr(model_id), "it must be a string")
    repository, _, quantisation = model_id.partition(":")
    return repository, quantisation or None


def check_revision(revision: str) -> str:
    """Return `revision`, or raise InvalidModelIdError if it cannot be a branch, tag or commit."""
    if not isinstance(revision, str):
        raise InvalidModelIdError(repr(revision), "it must be a string", what="revision")
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise InvalidModelIdError(
            revision, "it is not the name of a branch, a tag or a commit", what="revision"
        )
    return revision


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit, which never moves."""
    return _COMMIT.fullmatch(revision) is not None


def check_file_path(path: str, *, model_id: str) -> str:
    """Return a file path of a model's, or raise InvalidModelIdError if it could climb out."""
    if (problem := _problem_with(path)) is not None:
        shown = path if path.isprintable() else repr(path)
        raise InvalidModelIdError(shown, problem, what="file path", model_id=model_id)
    return path


@lru_cache(maxsize=4096)  # thousands of models share a few dozen file names
def _problem_with(path: str) -> str | None:
    if not path.isprintable():
        return "it has unprintable characters"
    parts = path.split("/")
    if "\\" in path or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        return "it does not stay inside the model"
    if any(len(part.encode()) > 255 for part in parts):
        return "a name in it is too long"
    if parts[:2] == [".cache", "huggingface"]:
        return "the downloader uses this folder itself"
    return None
