"""CollectionTable: the table of one collection, opened if it is there and made by a first write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sage.middleware.components.memory.errors import CollectionNotFoundError
from sage.middleware.components.memory.lance.store import LanceStore, collection_names
from sage.middleware.components.memory.lance.text_index import DEFAULT_LANGUAGE
from sage.middleware.components.memory.metadata import FieldType
from sage.middleware.components.memory.write_lock import WriteLock


class CollectionTable:
    """Finds and makes the table; ``fields`` and ``language`` are None where they are not given.

    ``create`` is the collection's: False asks for a table at once, None as soon as it is read, and
    True takes one that is not there for an empty one.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        fields: dict[str, FieldType] | None,
        language: str | None,
        create: bool | None,
    ) -> None:
        self.folder = folder
        self.name = name
        self._fields = fields
        self._language = language
        self._create = create
        self._lock = WriteLock(folder / f"{name}.lock")
        self._store: LanceStore | None = None
        self._closed = False
        if create is False:
            self._check_there(self.find())
        else:
            self.find()

    @property
    def fields(self) -> dict[str, FieldType]:
        """The declared fields: the table's, else those given."""
        store = self.find()
        return dict(store.fields if store is not None else self._fields or {})

    @property
    def language(self) -> str:
        """The language of the texts: the table's, else the one given."""
        store = self.find()
        return store.language if store is not None else self._language or DEFAULT_LANGUAGE

    def find(self) -> LanceStore | None:
        """Return the table, None as long as nobody has made one."""
        if self._closed:
            raise RuntimeError(f"collection {self.name!r} has been closed")
        store = self._store
        if store is None:
            store = LanceStore.open(self.folder, self.name)
            if store is not None:
                self._check_declared(store)
            self._store = store
        return store

    def find_to_read(self) -> LanceStore | None:
        """Return the table; raises CollectionNotFoundError unless one may be missing."""
        store = self.find()
        if not self._create:
            self._check_there(store)
        return store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers away for the length of a block."""
        with self._lock.held():
            yield

    @contextmanager
    def writing(self, dim: int) -> Iterator[LanceStore]:
        """Hold the lock for the length of a block, with the table, made for vectors of ``dim``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock.held():
            store = self.find()  # somebody else may have made it meanwhile
            if store is None:
                store = LanceStore.create(self.folder, self.name, dim, self.fields, self.language)
                self._store = store
            yield store

    def close(self) -> None:
        """Let go of the files."""
        self._closed = True
        self._store = None

    def _check_there(self, store: LanceStore | None) -> None:
        if store is None:
            existing = collection_names(self.folder)
            raise CollectionNotFoundError(self.name, str(self.folder), existing)

    def _check_declared(self, store: LanceStore) -> None:
        if self._fields not in (None, store.fields):
            raise ValueError(
                f"collection {self.name!r} has the fields {_shown(store.fields)}, not "
                f"{_shown(self._fields or {})}: leave fields= out, or use another name"
            )
        if self._language not in (None, store.language):
            raise ValueError(
                f"collection {self.name!r} has the language {store.language!r}, not "
                f"{self._language!r}: leave language= out, or use another name"
            )


def _shown(fields: Mapping[str, FieldType]) -> str:
    return ", ".join(f"{name}: {type_.__name__}" for name, type_ in fields.items()) or "(none)"
