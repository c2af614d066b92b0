"""TokenTree: what has to be asked, and what comes of the answers."""

from __future__ import annotations

import pytest

from sage.common.components.sage_vllm.backend.scoring.token_tree import TokenTree


def test_texts_of_one_token_each_are_one_question() -> None:
    tree = TokenTree([[4], [7], [9]])
    assert tree.questions == [((), [4, 7, 9])]
    assert tree.depth == 0
    assert tree.sums([{4: -1.0, 7: -2.0, 9: -3.0, 1: -0.1}]) == [-1.0, -2.0, -3.0]


def test_texts_that_begin_alike_share_a_question() -> None:
    tree = TokenTree([[1, 2], [1, 3, 4], [5]])
    assert tree.questions == [((), [1, 5]), ((1,), [2, 3]), ((1, 3), [4])]
    assert tree.depth == 2
    answers = [{1: -1.0, 5: -2.0}, {2: -0.5, 3: -0.25}, {4: -0.125}]
    assert tree.sums(answers) == [-1.5, -1.375, -2.0]


def test_more_texts_than_vllm_answers_at_once_are_asked_in_parts() -> None:
    tree = TokenTree([[token] for token in range(300)])
    assert [len(tokens) for _, tokens in tree.questions] == [128, 128, 44]
    answers = [{token: -float(token) for token in tokens} for _, tokens in tree.questions]
    assert tree.sums(answers) == pytest.approx([-float(token) for token in range(300)])
