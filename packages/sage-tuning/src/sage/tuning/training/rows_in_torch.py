"""Rows as tensors, and what a model makes of them: losses, and answers that are exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.tuning.data.rendering import Row

IGNORED = -100  # the label that a loss skips
_AT_ONCE = 32
_CHANGED_SCORES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings of models that do more to their scores than the last matrix does."""


def labels_of(row: Row) -> list[int]:
    """Return a row's labels: its trained tokens, all others ignored.

    The first token of all follows nothing, so no model is asked for it.
    """
    labels = [IGNORED] * len(row.ids)
    for start, end in row.spans:
        labels[start:end] = row.ids[start:end]
    labels[0] = IGNORED
    return labels


def evaluate(model: Any, rows: Sequence[Row], pad_id: int) -> dict[str, float]:
    """Return a model's ``loss``, ``perplexity``, ``token_accuracy`` and ``exact_match`` on rows.

    The loss is the mean over all trained tokens. Where each token of the right answer is the
    likeliest after those before it, and only there, greedy decoding gives that answer: so one
    forward pass tells the share of exact answers.
    """
    import torch

    loss, tokens, right, exact = 0.0, 0, 0, 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(rows), _AT_ONCE):
                batch = batch_of(rows[start : start + _AT_ONCE], pad_id, model.device)
                scores, wanted, counted = trained_scores(model, batch)
                loss += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
                fits = torch.ones_like(counted)
                fits[counted] = scores.argmax(-1) == wanted
                tokens += len(wanted)
                right += int(fits[counted].sum())
                exact += int(fits.all(dim=1).sum())
    finally:
        model.train(was_training)
    mean = loss / tokens
    return {
        "loss": mean,
        "perplexity": float(torch.exp(torch.tensor(mean))),
        "token_accuracy": right / tokens,
        "exact_match": exact / len(rows),
    }


def trained_scores(model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return scores of the vocabulary where tokens are trained, those tokens, and where they are.

    Scores cost most where a vocabulary is large, so they are made only there. ``counted`` is True
    where the next token is trained, of shape (rows, tokens - 1).
    """
    labels = batch["labels"][:, 1:]
    counted = labels != IGNORED
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if any(getattr(causal.config, name, None) for name in _CHANGED_SCORES):
        scores = model(**inputs, use_cache=False).logits[:, :-1][counted]
    else:
        hidden = causal.base_model(**inputs, use_cache=False).last_hidden_state
        scores = causal.get_output_embeddings()(hidden[:, :-1][counted])
    return scores.float(), labels[counted], counted


def batch_of(rows: Sequence[Row], pad_id: int, device: Any) -> dict[str, Any]:
    """Return rows as tensors of the same length, filled up at their ends, on a device."""
    import torch

    length = max(len(row.ids) for row in rows)

    def filled(lists: list[list[int]], value: int) -> Any:
        padded = [each + [value] * (length - len(each)) for each in lists]
        return torch.tensor(padded, device=device)

    return {
        "input_ids": filled([row.ids for row in rows], pad_id),
        "labels": filled([labels_of(row) for row in rows], IGNORED),
        "attention_mask": filled([[1] * len(row.ids) for row in rows], 0),
    }
