"""switch_engine: one engine replaced by another, as a transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sage.common.components.sage_vllm.engine_contract import Engine, EngineInfo, EngineSpec
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.pool.engine_loader import EngineLoader
from sage.common.components.sage_vllm.pool.engine_slot import EngineSlot

logger = logging.getLogger(__name__)


def switch_engine(
    loader: EngineLoader,
    slot: EngineSlot,
    old: Engine,
    spec: EngineSpec,
    *,
    load: Callable[[EngineSpec], Engine],
    on_loss: Callable[[Exception], None],
) -> None:
    """Load another engine, try it, put it into the slot, and retire the old one.

    ``load`` builds an engine in the memory that there is when it is called.

    Callers reach the new engine from ``EngineSlot.put`` on.

    Where memory does not hold both, the old one is retired first, and calls wait for the new one.
    An error leaves the old engine in the slot, or one that is built like it, and is raised. If
    that one cannot be built either, ``on_loss`` is told why, and the slot is empty.
    """
    try:
        new = load(spec)
    except InsufficientMemoryError as error:
        if not fits_instead_of(old.info, error):
            raise
        logger.info("%s and %s do not fit side by side", old.info.model_id, spec.model_id)
    else:
        loader.probe(new)
        loader.put(new, slot)
        loader.retire(old)
        return
    _switch_in_turn(loader, slot, old, spec, load, on_loss)


def _switch_in_turn(
    loader: EngineLoader,
    slot: EngineSlot,
    old: Engine,
    spec: EngineSpec,
    load: Callable[[EngineSpec], Engine],
    on_loss: Callable[[Exception], None],
) -> None:
    old_spec = loader.spec_of(old)
    slot.take_out()
    loader.retire(old)
    try:
        new = load(spec)
        loader.probe(new)
    except Exception as failure:
        try:
            again = load(old_spec)
        except Exception as error:  # noqa: BLE001 - what calls are refused with from now on
            on_loss(error)
            failure.add_note(f"{old_spec.model_id} could not be loaded again either: {error}")
            raise failure from None
        loader.put(again, slot)
        raise
    loader.put(new, slot)


def fits_instead_of(old: EngineInfo, error: InsufficientMemoryError) -> bool:
    """Whether a model that does not fit beside an engine would fit in its place."""
    if error.estimate is None:
        return False
    room = error.available + old.memory_bytes
    if error.share_bytes is not None:
        return error.estimate.total_bytes <= error.share_bytes <= room
    return error.estimate.total_bytes <= room
