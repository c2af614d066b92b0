"""The registry of local vLLM models: what is there, where it lies, getting more, deleting.

Models live under `~/.sage/models/vllm`, or `SAGE_VLLM_MODEL_ROOT`, or the `root` that every
function takes. A model is listed if and only if all its files are there and were verified.
"""

from .deletion import DeletionPlan, delete_model, plan_deletion
from .download import download_model, ensure_model_available
from .errors import (
    EmptySelectionError,
    GatedModelError,
    HubAccessError,
    HubModelNotFoundError,
    HubUnavailableError,
    InsufficientDiskError,
    IntegrityError,
    InvalidModelFolderError,
    InvalidModelIdError,
    ManifestCorruptError,
    ManifestVersionError,
    ModelNotFoundError,
    ModelRegistryError,
    PickledWeightsError,
    RegistryNotWritableError,
    RevisionNotFoundError,
)
from .import_folder import import_model
from .layout import ROOT_VARIABLE, registry_root
from .lookup import get_model, get_model_path, list_models, touch_model
from .model_info import FileRecord, ModelInfo
from .progress import DownloadStatus, FileProgress, LineWatcher

__all__ = [
    "ROOT_VARIABLE",
    "DeletionPlan",
    "DownloadStatus",
    "EmptySelectionError",
    "FileProgress",
    "FileRecord",
    "GatedModelError",
    "HubAccessError",
    "HubModelNotFoundError",
    "HubUnavailableError",
    "InsufficientDiskError",
    "IntegrityError",
    "InvalidModelFolderError",
    "InvalidModelIdError",
    "LineWatcher",
    "ManifestCorruptError",
    "ManifestVersionError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelRegistryError",
    "PickledWeightsError",
    "RegistryNotWritableError",
    "RevisionNotFoundError",
    "delete_model",
    "download_model",
    "ensure_model_available",
    "get_model",
    "get_model_path",
    "import_model",
    "list_models",
    "plan_deletion",
    "registry_root",
    "touch_model",
]
