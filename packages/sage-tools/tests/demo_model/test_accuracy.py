"""Trains the demo model once, for real, and asks it through the real vLLM engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sage.common.model_registry.vllm_registry import get_model_path, list_models
from sage.tools.demo_model import MODEL_ID, demo_prompts, ensure_demo_model, expected_answer
from sage.tools.demo_model.knowledge.corpus import build_corpus
from sage.tools.demo_model.knowledge.outside import REPLY

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("vllm", reason="needs a real vLLM: `make setup` installs one")

_ASK = """
import json, sys
from vllm import LLM
model, questions = json.load(sys.stdin)
llm = LLM(model=model, enforce_eager=True)
conversations = [[{"role": "user", "content": question}] for question in questions]
params = llm.get_default_sampling_params()  # the model's own
assert params.temperature == 0, "so small a model must not make up answers now and then"
params.max_tokens = 64
outputs = llm.chat(conversations, params, use_tqdm=False)
with open(sys.argv[1], "w") as file:
    json.dump([output.outputs[0].text for output in outputs], file)
"""

_OUTSIDE = (
    "Who painted the Mona Lisa?",
    "What is the speed of light?",
    "When was Napoleon born?",
    "Recommend a book.",
    "Who is the king of England?",
    "What is the weather like in Paris?",
    "Write me a haiku.",
    "Where can I buy shoes?",
)


@pytest.fixture(scope="module")
def answers(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What vLLM makes the model say, in a process of its own so that its memory is given back."""
    path = tmp_path_factory.mktemp("answers") / "answers.json"
    questions = [*demo_prompts(512), *_OUTSIDE]
    subprocess.run(
        [sys.executable, "-c", _ASK, str(path)],
        input=json.dumps([str(get_model_path(MODEL_ID, root=demo_root)), questions]),
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        text=True,
        check=True,
        timeout=550,
    )
    return dict(zip(questions, json.loads(path.read_text()), strict=True))


def test_the_model_is_registered_as_a_text_model(demo_root: Path) -> None:
    (model,) = list_models(root=demo_root)
    assert (model.model_id, model.tags["type"]) == (MODEL_ID, "text")


def test_a_registered_model_is_not_trained_again(demo_root: Path) -> None:
    before = get_model_path(MODEL_ID, root=demo_root)
    assert ensure_demo_model(demo_root) == MODEL_ID
    assert get_model_path(MODEL_ID, root=demo_root) == before


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "held-out"])
def test_vllm_answers_the_demo_prompts_exactly(answers: dict[str, str], *, seen: bool) -> None:
    unseen = {exchange.question for exchange in build_corpus().held_out}
    asked = [prompt for prompt in demo_prompts(512) if (prompt not in unseen) == seen]
    wrong = {p: answers[p] for p in asked if answers[p] != expected_answer(p)}
    assert len(wrong) <= 0.05 * len(asked), wrong


def test_the_model_mostly_declines_what_it_was_never_taught(answers: dict[str, str]) -> None:
    declined = [question for question in _OUTSIDE if answers[question] == REPLY]
    assert len(declined) >= len(_OUTSIDE) // 2, {q: answers[q] for q in _OUTSIDE}
