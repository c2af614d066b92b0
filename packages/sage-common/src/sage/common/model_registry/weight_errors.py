"""Errors about a model's weights; the whole table is in errors.py."""

from __future__ import annotations

from sage.common.model_registry.errors import ModelRegistryError


class PickledWeightsError(ModelRegistryError, ValueError):
    """The repository has only pickled weights, which can run any code when they are loaded."""

    def __init__(self, model_id: str, files: tuple[str, ...]) -> None:
        shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        super().__init__(
            f"Model {model_id!r} has only pickled weights ({shown}), and loading "
            "those can run any code.",
            hint="If you trust its owner, run "
            f"`sage llm model download --model {model_id} --allow-pickle`.",
            model_id=model_id,
        )
        self.files = files


class GGUFError(ModelRegistryError, ValueError):
    """A repository has its weights in GGUF alone, and they cannot be loaded or chosen.

    ``quantisations`` are those in the repository, ``wanted`` the one asked for, and ``supported``
    says whether a plugin is installed by which vLLM loads GGUF.
    """

    def __init__(
        self,
        model_id: str,
        quantisations: tuple[str, ...],
        *,
        wanted: str | None,
        supported: bool,
    ) -> None:
        names = ", ".join(quantisations) or "none"
        if not supported:
            problem = (
                f"Model {model_id!r} has its weights in GGUF alone ({names}), which this vLLM "
                "does not load."
            )
            hint = (
                "Choose a repository of the same model with safetensors, or install "
                "vllm-gguf-plugin (for GPUs) beside vLLM and name one quantisation, "
                f"`sage llm model download {model_id}:{(*quantisations, 'Q4_K_M')[0]}`."
            )
        elif wanted:
            problem = f"Model {model_id!r} has no quantisation {wanted!r}; it has {names}."
            hint = f"Run `sage llm model download {model_id}:{(*quantisations, '<name>')[0]}`."
        else:
            problem = f"Model {model_id!r} has several quantisations in GGUF: {names}."
            hint = f"Name one: `sage llm model download {model_id}:{quantisations[0]}`."
        super().__init__(problem, hint=hint, model_id=model_id)
        self.quantisations = quantisations
        self.wanted = wanted
        self.supported = supported


class IncompleteModelError(ModelRegistryError, ValueError):
    """A model's own files name weights that are not there, so it would load as another model."""

    def __init__(self, model_id: str, missing: tuple[str, ...], *, where: str) -> None:
        shown = ", ".join(missing[:3]) + (
            f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        )
        super().__init__(
            f"Model {model_id!r} is not whole: {where} lacks {shown}.",
            hint="Get all files of the model. Without these it would give other results, or none.",
            model_id=model_id,
        )
        self.missing = missing


class IntegrityError(ModelRegistryError, ValueError):
    """Files whose bytes differ from their recorded size or checksum."""

    def __init__(self, model_id: str, files: tuple[str, ...], *, hint: str | None = None) -> None:
        shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        super().__init__(
            f"Model {model_id!r} arrived damaged: {shown} did not match the size or checksum that "
            "the hub lists.",
            hint=hint
            or f"Run `sage llm model download --model {model_id}` again: it fetches only these.",
            model_id=model_id,
        )
        self.files = files
