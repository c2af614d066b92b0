"""The registry of local models: what is there, where it lies, getting more, deleting.

A model is listed if and only if all its files are there and were verified. The functions accept a
``root``; without one, models lie under ``SAGE_VLLM_MODEL_ROOT``, or ``~/.sage/models/vllm``.

    from sage.common.model_registry import download_model, get_model_path

    download_model("Qwen/Qwen2.5-0.5B-Instruct")
    get_model_path("Qwen/Qwen2.5-0.5B-Instruct")  # the folder of its files
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.model_registry.download.download import (
        download_model,
        ensure_model_available,
    )
    from sage.common.model_registry.download.progress import (
        DownloadStatus,
        FileProgress,
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
    from sage.common.model_registry.layout import registry_root
    from sage.common.model_registry.lookup import (
        get_model,
        get_model_path,
        list_models,
        touch_model,
    )
    from sage.common.model_registry.maintenance.deletion import (
        DeletionPlan,
        delete_model,
        plan_deletion,
    )
    from sage.common.model_registry.maintenance.migration import Migration, migrate_registry
    from sage.common.model_registry.maintenance.pruning import plan_prune
    from sage.common.model_registry.maintenance.update import (
        UpdateCheck,
        check_update,
        update_model,
    )
    from sage.common.model_registry.maintenance.verification import (
        VerificationReport,
        check_sizes,
        repair_model,
        verify_model,
    )
    from sage.common.model_registry.model_info import (
        FileRecord,
        ModelInfo,
    )
    from sage.common.model_registry.weight_errors import (
        GGUFError,
        IncompleteModelError,
        IntegrityError,
        PickledWeightsError,
    )

__all__ = [
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

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DeletionPlan": "sage.common.model_registry.maintenance.deletion",
        "DownloadStatus": "sage.common.model_registry.download.progress",
        "EarlierManifestError": "sage.common.model_registry.errors",
        "EmptySelectionError": "sage.common.model_registry.errors",
        "FileProgress": "sage.common.model_registry.download.progress",
        "FileRecord": "sage.common.model_registry.model_info",
        "GGUFError": "sage.common.model_registry.weight_errors",
        "IncompleteModelError": "sage.common.model_registry.weight_errors",
        "GatedModelError": "sage.common.model_registry.errors",
        "HubAccessError": "sage.common.model_registry.errors",
        "HubModelNotFoundError": "sage.common.model_registry.errors",
        "HubUnavailableError": "sage.common.model_registry.errors",
        "InsufficientDiskError": "sage.common.model_registry.errors",
        "IntegrityError": "sage.common.model_registry.weight_errors",
        "InvalidModelFolderError": "sage.common.model_registry.errors",
        "InvalidModelIdError": "sage.common.model_registry.errors",
        "ManifestCorruptError": "sage.common.model_registry.errors",
        "ManifestVersionError": "sage.common.model_registry.errors",
        "Migration": "sage.common.model_registry.maintenance.migration",
        "ModelInfo": "sage.common.model_registry.model_info",
        "ModelNotFoundError": "sage.common.model_registry.errors",
        "ModelRegistryError": "sage.common.model_registry.errors",
        "NotFromHubError": "sage.common.model_registry.errors",
        "PickledWeightsError": "sage.common.model_registry.weight_errors",
        "RegistryNotWritableError": "sage.common.model_registry.errors",
        "RevisionNotFoundError": "sage.common.model_registry.errors",
        "UpdateCheck": "sage.common.model_registry.maintenance.update",
        "VerificationReport": "sage.common.model_registry.maintenance.verification",
        "check_sizes": "sage.common.model_registry.maintenance.verification",
        "check_update": "sage.common.model_registry.maintenance.update",
        "delete_model": "sage.common.model_registry.maintenance.deletion",
        "download_model": "sage.common.model_registry.download.download",
        "ensure_model_available": "sage.common.model_registry.download.download",
        "get_model": "sage.common.model_registry.lookup",
        "get_model_path": "sage.common.model_registry.lookup",
        "import_model": "sage.common.model_registry.import_folder",
        "list_models": "sage.common.model_registry.lookup",
        "migrate_registry": "sage.common.model_registry.maintenance.migration",
        "plan_deletion": "sage.common.model_registry.maintenance.deletion",
        "plan_prune": "sage.common.model_registry.maintenance.pruning",
        "registry_root": "sage.common.model_registry.layout",
        "repair_model": "sage.common.model_registry.maintenance.verification",
        "touch_model": "sage.common.model_registry.lookup",
        "update_model": "sage.common.model_registry.maintenance.update",
        "verify_model": "sage.common.model_registry.maintenance.verification",
    },
)
