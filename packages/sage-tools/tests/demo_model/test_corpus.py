from __future__ import annotations

import subprocess
import sys

import pytest

from sage.tools.demo_model import demo_prompts, expected_answer
from sage.tools.demo_model.knowledge.corpus import build_corpus
from sage.tools.demo_model.knowledge.family import Family

_DIGEST = (
    "import hashlib; from sage.tools.demo_model.knowledge.corpus import build_corpus; "
    "print(hashlib.sha256(repr(build_corpus()).encode()).hexdigest())"
)


def test_another_process_generates_the_same_corpus() -> None:
    def digest(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert digest("1") == digest("2") != ""


def test_held_out_questions_are_not_trained_but_their_facts_are() -> None:
    corpus = build_corpus()
    trained = {exchange.question for exchange in corpus.training}
    assert trained.isdisjoint(exchange.question for exchange in corpus.held_out)
    answers = {exchange.answer for exchange in corpus.training}
    assert answers.issuperset(exchange.answer for exchange in corpus.held_out)
    assert len(corpus.held_out) > len(corpus.training) // 6


def test_one_phrasing_of_each_fact_is_held_out() -> None:
    family = Family(
        name="doubles",
        phrasings=("twice {0}?", "double {0}?"),
        answer="That is {1}.",
        facts=(("1", "2"), ("2", "4")),
    )
    held_out = [exchange.question for exchange in family.exchanges() if exchange.held_out]
    assert held_out == ["Twice 1?", "Double 2?"]


def test_prompts_are_distinct_repeatable_and_half_unseen() -> None:
    prompts = demo_prompts(500)
    assert len(set(prompts)) == 500
    assert demo_prompts(100) == prompts[:100]
    unseen = {exchange.question for exchange in build_corpus().held_out}
    assert sum(prompt in unseen for prompt in prompts) == 250


def test_each_prompt_has_an_answer_and_nothing_else_has() -> None:
    for prompt in demo_prompts(500):
        assert expected_answer(prompt).endswith((".", "?", "!"))
    with pytest.raises(LookupError, match="no demo prompt"):
        expected_answer("What is love?")


@pytest.mark.parametrize("count", [-1, 100_000])
def test_more_prompts_than_there_are_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=f"count={count}"):
        demo_prompts(count)


def test_prompts_load_no_torch() -> None:
    program = (
        "import sys; from sage.tools.demo_model import demo_prompts; demo_prompts(10); "
        "assert not {'torch', 'transformers', 'vllm', 'tokenizers'} & set(sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
