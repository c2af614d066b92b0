"""ModelTable: the models of a service by name, and which of them a call means."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.errors import InvalidOptionError, WrongModelTypeError
from sage.common.components.sage_vllm.model_settings import ModelSettings
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.core.errors import nearest
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.errors import ModelNotFoundError
from sage.common.model_registry.vllm_registry import ModelInfo

MakeEntry = Callable[[str, ModelSettings, PoolEntry | None], PoolEntry]


class ModelTable:
    """All entries of a service: those of its configuration, and those added by calls.

    ``make_entry`` makes one of a name, its settings, and the entry that it is converted from.
    """

    def __init__(self, config: VLLMServiceConfig, make_entry: MakeEntry) -> None:
        self._config = config
        self._make_entry = make_entry
        self._lock = threading.Lock()
        self._entries: dict[str, PoolEntry] = {}
        self._defaults: dict[Role, PoolEntry] = {}
        self._closed = False
        for name, settings in config.entries().items():
            self._entries[name] = make_entry(name, settings, None)
        self.configured = tuple(self._entries.values())
        text = self._entries.get(Role.GENERATE.label)
        if text is not None and Role.EMBED.label not in self._entries:
            self._add_fallback(text)

    def _add_fallback(self, text: PoolEntry) -> None:
        """Add the entry that embeds with the text model, where no other embeds."""
        settings = ModelSettings(model_id=text.settings.model_id, role=Role.EMBED)
        name = Role.EMBED.label
        self._entries[name] = self._make_entry(name, settings, text)

    def all(self) -> list[PoolEntry]:
        """Return all entries, those of the configuration first."""
        return list(self._entries.values())

    def get(self, name: str) -> PoolEntry | None:
        """Return the entry of a name, if there is one."""
        return self._entries.get(name)

    def entry(self, name: str) -> PoolEntry:
        """Return the entry of a name that is known to exist."""
        return self._entries[name]

    def close(self) -> None:
        """Have all entries refuse their calls, and those that come later."""
        with self._lock:
            self._closed = True
            entries = self.all()
        for entry in entries:
            entry.slot.refuse()

    def find(self, model: str | None, role: Role) -> PoolEntry:
        """Return the entry that a call means by ``model``; for None, the only one of its role.

        Raises InvalidOptionError for a name that no entry has, and WrongModelTypeError for one
        whose model does something else.
        """
        if model is None:
            found = self._defaults.get(role)
            return found if found is not None else self._find_default(role)
        entry = self.named(model)
        if entry.role is not role:
            others = [each.name for each in self._that(role)]
            hint = f"those that {role.value}: {', '.join(others) or '(none)'}"
            does = f"{entry.role.value}s"
            raise WrongModelTypeError("model", model, does, role.value, hint=hint)
        return entry

    def counting(self, model: str | None, role: str | None) -> PoolEntry:
        """Return the entry that tokens are counted for: of this name, or of this role.

        Without either it is the one that generates, or where none does, that embeds, or scores.
        """
        names = [each.value for each in Role]
        if role is not None and role not in names:
            hint = nearest(str(role), names)
            raise InvalidOptionError("role", role, f"unknown role {role!r}", hint=hint)
        if model is not None:
            return self.named(model)
        if role is None:
            role = next((each for each in Role if self._that(each)), Role.GENERATE)
        return self.find(None, Role(role))

    def named(self, model: str) -> PoolEntry:
        """Return the entry of this name, or the one whose model has this id.

        With ``on_demand`` one is added for a model of the registry. Raises InvalidOptionError.
        """
        if (entry := self._entries.get(model)) is not None:
            return entry
        having = [each for each in self.all() if each.model_id == model and each.source is None]
        if len(having) == 1:
            return having[0]
        if having:
            names = ", ".join(each.name for each in having)
            problem = f"several entries have the model {model!r}"
            raise InvalidOptionError("model", model, problem, hint=f"choose one of {names}")
        return self._on_demand(model)

    def _on_demand(self, model: str) -> PoolEntry:
        """Return a new entry for a model of the registry; raises InvalidOptionError."""
        info = _in_registry(model, self._config)
        if info is None or not self._config.on_demand:
            hint = nearest(model, [entry.name for entry in self.configured])
            if info is not None:
                hint = "it is in the registry: add it to models=, or set on_demand=True"
            raise InvalidOptionError("model", model, f"unknown model {model!r}", hint=hint)
        with self._lock:
            entry = self._entries.get(model)
            if entry is None:
                settings = ModelSettings(model_id=model, role=Role.of_tags(info.tags))
                entry = self._make_entry(model, settings, None)
                if self._closed:
                    entry.slot.refuse()
                self._entries[model] = entry
            return entry

    def _find_default(self, role: Role) -> PoolEntry:
        """Return the entry for calls that name no model; raises InvalidOptionError."""
        usual = self._entries.get(role.label)
        those = [usual] if usual is not None and usual.source is None else list(self._that(role))
        if not those and usual is not None:
            those = [usual]  # the fallback
        if len(those) == 1:
            self._defaults[role] = those[0]
            return those[0]
        if those:
            names = ", ".join(each.name for each in those)
            problem = f"several models {role.value}, and the call names none"
            raise InvalidOptionError("model", None, problem, hint=f"pass model=, one of {names}")
        if role is Role.SCORE and self.configured:
            first = self.configured[0]
            hint = "add a model that scores to the configuration, by"
            does = f"{first.role.value}s"
            raise WrongModelTypeError(
                "model", first.model_id, does, role.value, hint=hint, option=role.model_option
            )
        if role is Role.GENERATE and not self._config.on_demand:
            does = " and ".join(f"{each.value}s" for each in Role if self._that(each))
            problem = f"this service only {does}: its configuration has no 'model_id'"
        else:
            problem = f"no configured model can {role.value}, and the call names none"
        raise InvalidOptionError("model", None, problem)

    def _that(self, role: Role) -> list[PoolEntry]:
        return [entry for entry in self.configured if entry.role is role]


def _in_registry(model: str, config: VLLMServiceConfig) -> ModelInfo | None:
    try:
        return vllm_registry.get_model(model, root=config.model_root)
    except (ModelNotFoundError, ValueError):
        return None
