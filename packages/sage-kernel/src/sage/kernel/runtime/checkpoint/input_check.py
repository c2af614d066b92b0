"""Where a checkpoint refuses an input that is not what it was when the checkpoint was begun."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from sage.kernel.graph import Operator
from sage.kernel.runtime.checkpoint.errors import InputChangedError
from sage.kernel.runtime.checkpoint.input_protocol import FingerprintedInput

logger = logging.getLogger(__name__)

InputGrew = Literal["refuse", "continue"]


class InputCheck:
    """The input of one pipeline, as its source tells it.

    Args:
        folder: the checkpoint's, for errors and the log.
    """

    def __init__(self, folder: str, operators: Sequence[Operator]) -> None:
        self._folder = folder
        (self._operator,) = (operator for operator in operators if operator.kind == "source")

    def fingerprint(self) -> Any:
        """Return what tells the input from any other; None if its source cannot."""
        source = self._source()
        return None if source is None else source.input_fingerprint()

    def has_changed(self, before: Any, *, done: int, complete: bool, grew: InputGrew) -> bool:
        """Compare the input with an earlier fingerprint; True if it changed and may be continued.

        Args:
            before: the earlier fingerprint; with None, nothing is compared.
            done: how many of its records are through the pipeline.
            complete: whether those were all.
            grew: what to do with an input to which records were added.

        Raises:
            InputChangedError: what is done could be wrong, or records were added and ``grew`` is
                ``"refuse"``.
        """
        source = None if before is None else self._source()
        change = None if source is None else source.input_change(before)
        if change is None:
            return False
        if change.grew and grew == "refuse":
            raise InputChangedError(
                self._folder,
                f"its input grew since it was begun: {change.what}",
                'Go on with what is new by input_grew="continue"',
                grew=True,
            )
        if not change.grew and (complete or change.first < done):
            raise InputChangedError(
                self._folder,
                f"its input changed since it was begun: {change.what}, and {done} are done",
                "Bring the input back",
            )
        level = logging.INFO if change.grew else logging.WARNING  # the first was asked for
        logger.log(level, "checkpoint %r goes on, although %s", self._folder, change.what)
        return True

    def _source(self) -> FingerprintedInput | None:
        spec = self._operator.function
        if spec is None or not isinstance(spec.target, type):
            return None
        if not issubclass(spec.target, FingerprintedInput):
            return None
        source: FingerprintedInput = spec.build()
        return source
