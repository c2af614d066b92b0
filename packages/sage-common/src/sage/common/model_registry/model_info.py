"""What the registry knows of a model, and its form in the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sage.common.model_registry.model_id import (
    check_file_path,
    check_model_id,
    check_revision,
    is_commit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Tag = str | int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size in bytes and checksum of one file: sha256 for large files, git's sha1 for the others."""

    size: int
    algorithm: str  # "sha256" or "git_sha1"
    checksum: str

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"size": self.size, self.algorithm: self.checksum}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FileRecord:
        """Read the manifest's form; KeyError, TypeError or ValueError if it is not that."""
        algorithm = "sha256" if "sha256" in raw else "git_sha1"
        size, checksum = raw["size"], raw[algorithm]
        if not isinstance(size, int) or not isinstance(checksum, str):
            raise TypeError("size must be a number and the checksum a string")
        return cls(size=size, algorithm=algorithm, checksum=checksum)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One commit of one model, complete and verified when it was recorded."""

    model_id: str
    revision: str
    """The name it was last asked for by: a branch, a tag or a commit."""
    commit: str
    path: Path
    size_bytes: int
    last_used: datetime
    """UTC; the last touch, else the download."""
    tags: Mapping[str, Tag] = field(default_factory=dict)
    """"type" ("text", "embedding"), "parameters", "dtype", "context_length", and the user's."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    """Other revisions that led to the same commit."""
    source: str = "hub"
    """"hub", or "import" for a model registered from a folder."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every revision under which this commit can be asked for."""
        return (self.revision, *self.aliases, self.commit)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's form; `path` is relative to the root, which can be moved."""
        raw: dict[str, Any] = {
            "model_id": self.model_id,
            "revision": self.revision,
            "commit": self.commit,
            "path": f"{self.model_id}/{self.commit}",
            "size_bytes": self.size_bytes,
            "last_used": self.last_used.isoformat(),
            "tags": dict(self.tags),
            "files": {path: record.to_json() for path, record in self.files.items()},
        }
        if self.aliases:
            raw["aliases"] = list(self.aliases)
        if self.source != "hub":
            raw["source"] = self.source
        return raw

    @classmethod
    def from_json(cls, root: Path, raw: Mapping[str, Any]) -> ModelInfo:
        """Read the manifest's form; KeyError, TypeError or ValueError if it is not that."""
        model_id = check_model_id(raw["model_id"])
        commit = raw["commit"]
        if not is_commit(commit):
            raise ValueError(f"{model_id} has commit {commit!r}")
        # The path is implied; one that says anything else was not written by the registry.
        if raw["path"] != f"{model_id}/{commit}":
            raise ValueError(f"{model_id} has path {raw['path']!r}, not '{model_id}/{commit}'")
        if not isinstance(raw["size_bytes"], int) or not isinstance(raw["tags"], dict):
            raise TypeError(f"{model_id} has a size_bytes or tags of the wrong kind")
        last_used = datetime.fromisoformat(raw["last_used"])
        if last_used.tzinfo is None:
            raise ValueError(f"{model_id} has last_used {raw['last_used']!r}, without a time zone")
        return cls(
            model_id=model_id,
            revision=check_revision(raw["revision"]),
            commit=commit,
            path=root / raw["path"],
            size_bytes=raw["size_bytes"],
            last_used=last_used,
            tags=raw["tags"],
            files={
                check_file_path(path, model_id=raw["model_id"]): FileRecord.from_json(record)
                for path, record in raw["files"].items()
            },
            aliases=tuple(check_revision(name) for name in raw.get("aliases", ())),
            source=str(raw.get("source", "hub")),
        )
