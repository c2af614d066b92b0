"""Preferences as tensors, and whether a model has come to prefer what it should."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from sage.tuning.data.rendering import Row
from sage.tuning.training.rows_in_torch import batch_of, evaluate, trained_scores

_AT_ONCE = 32


def columns_of(chosen: Sequence[Row], rejected: Sequence[Row]) -> dict[str, list[list[int]]]:
    """Return the columns that TRL's collator reads."""
    return {
        "prompt_ids": [row.prompt for row in chosen],
        "chosen_ids": [row.ids[len(row.prompt) :] for row in chosen],
        "rejected_ids": [row.ids[len(row.prompt) :] for row in rejected],
    }


def evaluate_pairs(
    model: Any, chosen: Sequence[Row], rejected: Sequence[Row], *, beta: float, pad_id: int
) -> dict[str, float]:
    """Return the ``loss`` of preferences, ``preference_accuracy``, and how the chosen fare.

    A preference is right where training has made the chosen answer more likely, against the
    rejected one, than the base model has it. ``chosen_loss`` and the others are those of answers.
    """
    import torch

    margins = []
    for side, sign in ((chosen, 1), (rejected, -1)):
        now = _log_probabilities(model, side, pad_id)
        with model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
            before = _log_probabilities(model, side, pad_id)
        margins.append(sign * (now - before))
    margin = margins[0] + margins[1]
    answers = evaluate(model, chosen, pad_id)
    return {
        "loss": float(-torch.nn.functional.logsigmoid(beta * margin).mean()),
        "preference_accuracy": float((margin > 0).float().mean()),
        "chosen_loss": answers["loss"],
        "exact_match": answers["exact_match"],
    }


def _log_probabilities(model: Any, rows: Sequence[Row], pad_id: int) -> Any:
    import torch

    found = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(rows), _AT_ONCE):
                batch = batch_of(rows[start : start + _AT_ONCE], pad_id, model.device)
                scores, wanted, counted = trained_scores(model, batch)
                losses = torch.zeros(counted.shape, device=model.device)
                losses[counted] = torch.nn.functional.cross_entropy(
                    scores, wanted, reduction="none"
                )
                found.append(-losses.sum(dim=1).cpu())
    finally:
        model.train(was_training)
    return torch.cat(found)
