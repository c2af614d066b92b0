"""The registry of local vLLM models: what is there, where it lies, getting more, deleting.

Models live under `~/.sage/models/vllm`, or `SAGE_VLLM_MODEL_ROOT`, or the `root` that every
function takes. A model is listed if and only if all its files are there and were verified.
"""

from __future__ import annotations

from sage.common.model_registry.download.download import download_model, ensure_model_available
from sage.common.model_registry.download.progress import (
    DownloadStatus,
    FileProgress,
    LineWatcher,
    format_bytes,
    format_seconds,
)
from sage.common.model_registry.errors import (
    EarlierManifestError,
    EmptySelectionError,
    GatedModelError,
    HubAccessError,
    HubModelNotFoundError,
    HubUnavailableError,
    InsufficientDiskError,
    InvalidModelFolderError,
    InvalidModelIdError,
    ManifestCorruptError,
    ManifestVersionError,
    ModelNotFoundError,
    ModelRegistryError,
    NotFromHubError,
    RegistryNotWritableError,
    RevisionNotFoundError,
)
from sage.common.model_registry.import_folder import import_model
from sage.common.model_registry.layout import ROOT_VARIABLE, registry_root
from sage.common.model_registry.lookup import get_model, get_model_path, list_models, touch_model
from sage.common.model_registry.maintenance.deletion import (
    DeletionPlan,
    delete_model,
    plan_deletion,
)
from sage.common.model_registry.maintenance.migration import Migration, migrate_registry
from sage.common.model_registry.maintenance.pruning import plan_prune
from sage.common.model_registry.maintenance.update import UpdateCheck, check_update, update_model
from sage.common.model_registry.maintenance.verification import (
    VerificationReport,
    check_sizes,
    repair_model,
    verify_model,
)
from sage.common.model_registry.model_info import FileRecord, ModelInfo
from sage.common.model_registry.weight_errors import (
    GGUFError,
    IncompleteModelError,
    IntegrityError,
    PickledWeightsError,
)

__all__ = [
    "ROOT_VARIABLE",
    "DeletionPlan",
    "DownloadStatus",
    "EarlierManifestError",
    "EmptySelectionError",
    "FileProgress",
    "FileRecord",
    "GGUFError",
    "GatedModelError",
    "HubAccessError",
    "HubModelNotFoundError",
    "HubUnavailableError",
    "IncompleteModelError",
    "InsufficientDiskError",
    "IntegrityError",
    "InvalidModelFolderError",
    "InvalidModelIdError",
    "LineWatcher",
    "ManifestCorruptError",
    "ManifestVersionError",
    "Migration",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelRegistryError",
    "NotFromHubError",
    "PickledWeightsError",
    "RegistryNotWritableError",
    "RevisionNotFoundError",
    "UpdateCheck",
    "VerificationReport",
    "check_sizes",
    "check_update",
    "delete_model",
    "download_model",
    "ensure_model_available",
    "format_bytes",
    "format_seconds",
    "get_model",
    "get_model_path",
    "import_model",
    "list_models",
    "migrate_registry",
    "plan_deletion",
    "plan_prune",
    "registry_root",
    "repair_model",
    "touch_model",
    "update_model",
    "verify_model",
]
