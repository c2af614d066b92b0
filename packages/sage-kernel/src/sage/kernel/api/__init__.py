"""The kernel's door: environments and streams, and what users meet of services and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.core.errors import RecordTimeoutError, SageError
    from sage.common.service import BaseService
    from sage.kernel.api.collect_sink import CollectSink
    from sage.kernel.api.data_stream import DataStream
    from sage.kernel.api.local_environment import LocalEnvironment
    from sage.kernel.api.ray_environment import RayEnvironment
    from sage.kernel.runtime.all_records_failed import AllRecordsFailedError
    from sage.kernel.runtime.cancelled import PipelineCancelledError
    from sage.kernel.runtime.checkpoint import (
        CheckpointError,
        CheckpointInUseError,
        CheckpointMismatchError,
        DurableSink,
        InputChange,
        InputChangedError,
        ServiceChangedError,
        UnsupportedPipelineError,
    )
    from sage.kernel.runtime.cluster.errors import (
        NoClusterError,
        PlacementError,
        PoisonCallError,
        RemoteError,
        ReplicaDiedError,
        StreamBrokenError,
        WorkerDiedError,
    )
    from sage.kernel.runtime.failed_record import FailedRecord
    from sage.kernel.runtime.flow.unawaited import UnawaitedCoroutineError
    from sage.kernel.runtime.metrics.prometheus import PipelineCollector
    from sage.kernel.runtime.metrics.replica_status import ReplicaStatus
    from sage.kernel.runtime.metrics.run_metrics import OperatorMetrics, RunMetrics

__all__ = [
    "AllRecordsFailedError",
    "BaseService",
    "CheckpointError",
    "CheckpointInUseError",
    "CheckpointMismatchError",
    "CollectSink",
    "DataStream",
    "DurableSink",
    "FailedRecord",
    "InputChange",
    "InputChangedError",
    "LocalEnvironment",
    "NoClusterError",
    "OperatorMetrics",
    "PipelineCancelledError",
    "PipelineCollector",
    "PlacementError",
    "PoisonCallError",
    "RayEnvironment",
    "RecordTimeoutError",
    "RemoteError",
    "ReplicaDiedError",
    "ReplicaStatus",
    "RunMetrics",
    "SageError",
    "ServiceChangedError",
    "StreamBrokenError",
    "UnawaitedCoroutineError",
    "UnsupportedPipelineError",
    "WorkerDiedError",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AllRecordsFailedError": "sage.kernel.runtime.all_records_failed",
        "BaseService": "sage.common.service",
        "CheckpointError": "sage.kernel.runtime.checkpoint",
        "CheckpointInUseError": "sage.kernel.runtime.checkpoint",
        "CheckpointMismatchError": "sage.kernel.runtime.checkpoint",
        "CollectSink": "sage.kernel.api.collect_sink",
        "DataStream": "sage.kernel.api.data_stream",
        "DurableSink": "sage.kernel.runtime.checkpoint",
        "FailedRecord": "sage.kernel.runtime.failed_record",
        "InputChange": "sage.kernel.runtime.checkpoint",
        "InputChangedError": "sage.kernel.runtime.checkpoint",
        "LocalEnvironment": "sage.kernel.api.local_environment",
        "NoClusterError": "sage.kernel.runtime.cluster.errors",
        "OperatorMetrics": "sage.kernel.runtime.metrics.run_metrics",
        "PipelineCancelledError": "sage.kernel.runtime.cancelled",
        "PipelineCollector": "sage.kernel.runtime.metrics.prometheus",
        "PlacementError": "sage.kernel.runtime.cluster.errors",
        "PoisonCallError": "sage.kernel.runtime.cluster.errors",
        "RayEnvironment": "sage.kernel.api.ray_environment",
        "RecordTimeoutError": "sage.common.core.errors",
        "RemoteError": "sage.kernel.runtime.cluster.errors",
        "ReplicaDiedError": "sage.kernel.runtime.cluster.errors",
        "ReplicaStatus": "sage.kernel.runtime.metrics.replica_status",
        "RunMetrics": "sage.kernel.runtime.metrics.run_metrics",
        "SageError": "sage.common.core.errors",
        "ServiceChangedError": "sage.kernel.runtime.checkpoint",
        "StreamBrokenError": "sage.kernel.runtime.cluster.errors",
        "UnawaitedCoroutineError": "sage.kernel.runtime.flow.unawaited",
        "UnsupportedPipelineError": "sage.kernel.runtime.checkpoint",
        "WorkerDiedError": "sage.kernel.runtime.cluster.errors",
    },
)
