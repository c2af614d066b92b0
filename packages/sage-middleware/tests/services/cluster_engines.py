"""An engine for the processes of a cluster, which import this module."""

from __future__ import annotations

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.testing import EchoEngine


def commit_engine(spec: EngineSpec) -> EchoEngine:
    """Make an engine that answers with the commit of its model."""
    return EchoEngine(spec, answers=lambda _: spec.path.name)
