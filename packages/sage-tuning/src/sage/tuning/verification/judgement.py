"""What the figures of a verification mean: whether it is the same in vLLM, and whether better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

_TOLERANCE = {"float32": (0.01, 0.01)}
_COARSE = (0.03, 0.02)
"""How far losses may be apart, as a share and absolutely: bfloat16 has three digits."""
_MOST_PLAIN_CHANGED = 0.02
"""Near-ties of bfloat16 may turn with the batch that a prompt is in."""
_MOST_CHANCE = 0.05


class UnlikeInServingError(RuntimeError):
    """What was trained does not answer in vLLM as it did where it was trained."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was found: losses by PEFT and by vLLM, and answers counted in vLLM."""

    dtype: str
    loss_trained: float
    loss_vllm: float
    questions: int = 0
    exact_before: int = 0
    exact_after: int = 0
    gained: int = 0
    lost: int = 0
    """Answers that were not exact before and are, and the other way round."""
    gained_on_commonest: int = 0
    lost_on_commonest: int = 0
    """The same against giving the commonest of the right answers each time."""
    changed: int = 0
    """Answers that differ from the base model's."""
    plain_changed: int = 0
    """Answers without the adapter that differ once it is used beside them."""
    loss_baseline: float | None = None
    """The loss by vLLM of the adapter to compare with, None where that is the base model."""

    def to_json(self) -> dict[str, Any]:
        """Return them as plain data, shares in place of counts."""
        plain: dict[str, Any] = {
            "dtype": self.dtype,
            "loss_vllm": round(self.loss_vllm, 6),
            "loss_gap": round(abs(self.loss_vllm - self.loss_trained), 6),
        }
        if self.loss_baseline is not None:
            plain["loss_baseline"] = round(self.loss_baseline, 6)
        if not self.questions:
            return plain
        return plain | {
            "exact_match_before": round(self.exact_before / self.questions, 4),
            "exact_match_vllm": round(self.exact_after / self.questions, 4),
            "changed_outputs": self.changed,
            "plain_changed": self.plain_changed,
            "questions": self.questions,
        }


def check_alike(figures: Figures, loss_before: float | None = None) -> None:
    """Raise UnlikeInServingError where vLLM does not serve what was trained.

    Where no answer changed, only another loss than ``loss_before``, the base model's, shows that
    vLLM has used it at all.
    """
    share, absolute = _TOLERANCE.get(figures.dtype.removeprefix("torch."), _COARSE)
    gap = abs(figures.loss_vllm - figures.loss_trained)
    most = share * figures.loss_trained + absolute
    if not gap <= most:
        raise UnlikeInServingError(
            f"the loss of the held-out examples is {figures.loss_vllm:.4f} in vLLM and was "
            f"{figures.loss_trained:.4f} where it was trained"
        )
    shows = loss_before is not None and abs(figures.loss_vllm - loss_before) > most
    if figures.questions and not figures.changed and not shows:
        raise UnlikeInServingError(
            "no answer differs from the base model's, and their loss hardly does: it has learned "
            "nothing, or vLLM ignores it; more epochs or a higher learning_rate would tell"
        )
    if figures.plain_changed > _MOST_PLAIN_CHANGED * figures.questions:
        raise UnlikeInServingError(
            f"{figures.plain_changed} of {figures.questions} answers without the adapter changed "
            "when it was used beside them"
        )


def why_not_better(
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
    figures: Figures | None,
    gate: str = "better",
) -> str | None:
    """Return why a result is no better than its base; None if it is.

    Exact answers decide, for a loss falls by the form of answers alone. Where as many are exact as
    before, the loss does; not where it has to be ``proven``.
    """
    if before is None or after is None or figures is None:
        return "nothing was held out to evaluate it on"
    if gate == "proven" and (reason := _why_not_proven(figures)):
        return reason
    if figures.exact_after < figures.exact_before:
        return (
            f"{figures.exact_after} of {figures.questions} held-out answers are exact, and "
            f"{figures.exact_before} were before"
        )
    if figures.exact_after > figures.exact_before:
        return None
    was, now = before["loss"], after["loss"]
    if figures.loss_baseline is not None:
        was, now = figures.loss_baseline, figures.loss_vllm
    if now >= was:
        return f"the loss of the held-out examples is {now:.4f} and was {was:.4f}"
    if figures.questions and not figures.changed:
        return (
            f"none of {figures.questions} held-out answers changed, though their loss fell from "
            f"{was:.4f} to {now:.4f}: more epochs or a higher learning_rate change more"
        )
    return None


def _why_not_proven(figures: Figures) -> str | None:
    if (chance := _chance(figures.gained, figures.lost)) > _MOST_CHANCE:
        return (
            f"{figures.gained} of {figures.questions} held-out answers became exact and "
            f"{figures.lost} ceased to be, which chance alone does in {chance:.0%} of cases"
        )
    if _chance(figures.gained_on_commonest, figures.lost_on_commonest) > _MOST_CHANCE:
        return (
            f"{figures.exact_after} of {figures.questions} held-out answers are exact, hardly more "
            "than by giving the commonest of them each time"
        )
    return None


def _chance(gained: int, lost: int) -> float:
    """Return how often a coin gives at least so many gains: the sign test, one-sided."""
    changed = gained + lost
    return float(sum(comb(changed, count) for count in range(gained, changed + 1)) / 2**changed)
