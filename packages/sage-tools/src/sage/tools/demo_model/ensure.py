"""The demo model in the registry, trained where it is not there yet."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sage.common.model_registry.vllm_registry import import_model, list_models
from sage.tools.demo_model.progress import TrainingProgress

if TYPE_CHECKING:
    import os

MODEL_ID = "sage/demo-chat"


def ensure_demo_model(root: str | os.PathLike[str] | None = None, *, quiet: bool = False) -> str:
    """Return the demo model's id; train the model and register it first where it is missing.

    Training takes about a minute on two cores and shows its progress on standard error, unless it
    is to be ``quiet``.

    Raises:
        DemoModelError: the trained model answers too few questions.
        ModelRegistryError: the registry at ``root`` cannot be read or written.
    """
    if all(model.model_id != MODEL_ID for model in list_models(root=root)):
        from sage.tools.demo_model.training import train_demo_model

        with TemporaryDirectory(prefix="sage-demo-model-") as folder:
            progress = TrainingProgress(stream=StringIO()) if quiet else TrainingProgress()
            train_demo_model(Path(folder), progress)
            import_model(MODEL_ID, folder, tags={"type": "text"}, root=root)
    return MODEL_ID
