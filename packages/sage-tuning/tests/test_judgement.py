"""What figures mean: the same in vLLM, better, or better beyond chance."""

from __future__ import annotations

from typing import Any

import pytest

from sage.tuning.verification.judgement import (
    Figures,
    UnlikeInServingError,
    check_alike,
    why_not_better,
)

GOOD: dict[str, Any] = {
    "dtype": "float32",
    "loss_trained": 1.0,
    "loss_vllm": 1.001,
    "questions": 50,
    "exact_before": 0,
    "exact_after": 40,
    "gained": 40,
    "gained_on_commonest": 40,
    "changed": 50,
}
LOSSES = ({"loss": 4.0}, {"loss": 1.0})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss_vllm": 1.03}, r"1\.0300 in vLLM and was 1\.0000"),
        ({"loss_vllm": float("nan")}, "nan in vLLM"),
        ({"dtype": "bfloat16", "loss_vllm": 1.06}, "in vLLM"),
        ({"changed": 0}, "no answer differs"),
        ({"plain_changed": 2}, "2 of 50 answers without the adapter changed"),
    ],
)
def test_what_is_not_the_same_in_vllm_is_an_error(changed: dict[str, Any], said: str) -> None:
    check_alike(Figures(**GOOD))
    check_alike(Figures(**{**GOOD, "dtype": "bfloat16", "loss_vllm": 1.04}))
    with pytest.raises(UnlikeInServingError, match=said):
        check_alike(Figures(**{**GOOD, **changed}))


def test_an_adapter_that_changed_no_answer_is_used_where_the_loss_says_so() -> None:
    figures = Figures(**{**GOOD, "changed": 0, "exact_after": 0, "gained": 0})
    check_alike(figures, 4.0)
    assert "none of 50 held-out answers changed" in str(why_not_better(*LOSSES, figures))
    with pytest.raises(UnlikeInServingError, match="it has learned nothing, or vLLM ignores it"):
        check_alike(figures, 1.005)


def test_a_baseline_is_compared_by_its_own_loss() -> None:
    same = {**GOOD, "exact_before": 40, "gained": 0}
    assert why_not_better(*LOSSES, Figures(**same, loss_baseline=1.2)) is None
    reason = why_not_better(*LOSSES, Figures(**same, loss_baseline=0.9))
    assert reason == "the loss of the held-out examples is 1.0010 and was 0.9000"
    assert Figures(**same, loss_baseline=0.9).to_json()["loss_baseline"] == 0.9


def test_exact_answers_decide_and_then_the_loss() -> None:
    assert why_not_better(*LOSSES, Figures(**GOOD)) is None
    fewer = Figures(**{**GOOD, "exact_before": 41})
    assert "40 of 50 held-out answers are exact, and 41 were" in str(why_not_better(*LOSSES, fewer))
    same = Figures(**{**GOOD, "exact_before": 40, "gained": 0})
    assert why_not_better(*LOSSES, same) is None
    assert "is 4.0000 and was 1.0000" in str(why_not_better(*LOSSES[::-1], same))
    assert why_not_better(None, None, None) == "nothing was held out to evaluate it on"


@pytest.mark.parametrize(
    ("gained", "lost", "is_proven"),
    [(5, 0, True), (4, 0, False), (0, 0, False), (12, 4, True), (12, 6, False), (3, 9, False)],
)
def test_proven_is_what_chance_does_not_do(gained: int, lost: int, is_proven: bool) -> None:  # noqa: FBT001
    figures = Figures(
        **{**GOOD, "exact_before": lost, "exact_after": gained, "gained": gained, "lost": lost}
    )
    assert (why_not_better(*LOSSES, figures, "proven") is None) == is_proven


def test_the_commonest_answer_each_time_proves_nothing() -> None:
    figures = Figures(**{**GOOD, "exact_after": 12, "gained": 12, "gained_on_commonest": 3})
    assert "the commonest of them each time" in str(why_not_better(*LOSSES, figures, "proven"))
    assert why_not_better(*LOSSES, figures) is None
