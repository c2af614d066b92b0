"""LoraRequests: by what vLLM knows the adapters that requests use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import PurePath
from typing import Any

from sage.common.components.sage_vllm.engine_contract import LoraAdapter
from sage.common.components.sage_vllm.errors import InvalidRequestError

logger = logging.getLogger(__name__)


class LoraRequests:
    """Makes vLLM's LoRARequests for one engine and those that follow it, on any thread.

    Args:
        model_id: the engine's model.
        make: vLLM's LoRARequest, given a name, a number and a path.
        max_rank: the largest rank that the engine takes, None if it takes no adapters.
        ranks: those that an engine can be configured for, in rising order.
    """

    def __init__(
        self,
        model_id: str,
        make: Callable[[str, int, str], Any],
        *,
        max_rank: int | None,
        ranks: Sequence[int],
    ) -> None:
        self._model_id = model_id
        self._make = make
        self._max_rank = max_rank
        self._ranks = ranks
        self._made: dict[str, Any] = {}
        self._numbers = count(1)  # no two adapters may ever have the same

    def of(self, adapter: LoraAdapter) -> Any:
        """Return the request of an adapter, the same one each time; raises InvalidRequestError."""
        # Its commit is part of the name: vLLM takes two adapters of one name for one.
        name = f"{adapter.name}@{adapter.commit}"
        if name not in self._made:
            self._check_rank(adapter)
            self._compare_bases(adapter)
            # Two threads at once: the second one's number goes unused.
            request = self._make(name, next(self._numbers), str(adapter.path))
            self._made.setdefault(name, request)
        return self._made[name]

    def _check_rank(self, adapter: LoraAdapter) -> None:
        if self._max_rank is None:
            raise InvalidRequestError(
                self._model_id,
                "this engine takes no LoRA adapters",
                hint="configure it with",
                option="engine.enable_lora",
                value=True,
            )
        if adapter.rank <= self._max_rank:
            return
        has = f"the adapter {adapter.name!r} has rank {adapter.rank}"
        fitting = [rank for rank in self._ranks if rank >= adapter.rank]
        if not fitting:
            problem = f"{has} and vLLM takes ranks up to {self._ranks[-1]}"
            hint = f"train it with a rank of {self._ranks[-1]} or less"
            raise InvalidRequestError(self._model_id, problem, hint=hint)
        raise InvalidRequestError(
            self._model_id,
            f"{has} and this engine takes ranks up to {self._max_rank}",
            hint="configure it with",
            option="engine.max_lora_rank",
            value=fitting[0],
        )

    def _compare_bases(self, adapter: LoraAdapter) -> None:
        """Warn of an adapter that was trained on another model.

        It is no error: the base may be this model under another name, or with other weights on
        purpose. vLLM refuses one whose shapes do not fit.
        """
        if adapter.base is not None and not is_base(adapter.base, self._model_id):
            logger.warning(
                "the adapter %r was trained on %r, and %r serves it: its answers may be worse "
                "than without it",
                adapter.name,
                adapter.base,
                self._model_id,
            )


def is_base(base: str, model_id: str) -> bool:
    """Whether an adapter's base, the id of a model or a folder, goes by the name of this model.

    A folder of the registry ends with the model's id and a commit. Copies of a model keep its name
    under other owners, so the owner does not count.
    """
    name = PurePath(model_id.lower()).name
    return name in PurePath(base.lower()).parts[-2:]
