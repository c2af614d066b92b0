"""A request's files: all that is wrong with them is told, and what is trained on is right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples_file import as_lines

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequestError, preview_fine_tuning
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model, list_models
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.dataset import read_dataset
from sage.tuning.data.rows import Rows
from sage.tuning.settings import Settings, read_settings

MakeRequest = Callable[..., dict[str, Any]]


def asked(number: int, answer: str = "It is {0}.") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": answer.format(number)},
        ]
    }


def refusal(request: dict[str, Any], root: Path) -> FineTuneRequestError:
    with pytest.raises(FineTuneRequestError) as raised:
        preview_fine_tuning(request, root=root)
    assert not Path(request["output_dir"]).exists()
    return raised.value


def test_a_report_tells_what_would_be_trained(make_request: MakeRequest, root: Path) -> None:
    request, report = preview_fine_tuning(make_request([asked(n) for n in range(40)]), root=root)
    assert request.example_count == 40
    assert (report["trained_on"], report["held_out"], report["duplicates"]) == (36, 4, 0)
    assert report["tokens"]["trained"] < report["tokens"]["total"]
    assert report["method"] == "sft"
    first = report["mask"][0]
    assert [trained for _, trained in first] == [False, True]
    assert first[1][0].endswith("<|end|>")  # the newline behind it is not trained
    assert report["needs"]["steps"] == 7  # three epochs of 36 in steps of 16
    assert report["needs"]["memory_bytes"] < report["needs"]["free_bytes"]
    assert json.loads(json.dumps(report)) == report


def test_a_base_that_cannot_say_the_end_of_an_answer_is_warned_of(
    make_request: MakeRequest, root: Path, tmp_path: Path
) -> None:
    lines = [asked(n) for n in range(9)]
    _, report = preview_fine_tuning(make_request(lines), root=root)
    (warning,) = report["warnings"]
    assert "answers end with '<|end|>', and 'test/tiny' was never trained to say it" in warning
    assert "its row of lm_head.weight is next to zero" in warning
    _, report = preview_fine_tuning(make_request(lines, strategy="full"), root=root)
    assert report["warnings"] == []
    other = tmp_path / "root"
    import_model("test/ends", write_tiny_model(tmp_path / "ends", can_end=True), root=other)
    _, report = preview_fine_tuning(make_request(lines, base_model="test/ends"), root=other)
    assert report["warnings"] == []


def test_three_kinds_of_mistake_are_told_at_once(make_request: MakeRequest, root: Path) -> None:
    lines = [
        asked(1),
        '{"messages": [{"role": "user", "content": "x"}]}',
        "nonsense",
        asked(2, "4<|end|>"),
        {"text": "another kind"},
    ]
    error = refusal(make_request(lines), root)
    assert error.field == "dataset_path"
    said = [
        "line 2 has no turn of the assistant, so nothing to learn",
        "line 3 is not JSON",
        "line 4 has the special token '<|end|>'",
        "line 5 is of texts, and those before it of conversations",
    ]
    assert len(error.problems) == len(said)
    for found, expected in zip(error.problems, said, strict=True):
        assert found.startswith(expected)
        assert expected in error.problem


def test_what_is_too_long_is_refused_dropped_or_truncated(
    make_request: MakeRequest, root: Path
) -> None:
    lines = [*[asked(n) for n in range(20)], asked(99, "It is " + "so " * 900)]
    error = refusal(make_request(lines), root)
    assert "line 21 has" in error.problem
    assert "512 fit" in error.problem
    for how, rows in (("drop", 20), ("truncate", 21)):
        request = make_request(lines, hyperparameters={"overlong": how})
        _, report = preview_fine_tuning(request, root=root)
        assert (report["rows"], report["overlong"]) == (rows, {"count": 1, "lines": [21]})
        assert report["tokens"]["longest"] <= 512
    request = make_request(lines, hyperparameters={"overlong": "truncate", "max_length": 4})
    assert "no trained token among the first 4" in refusal(request, root).problem


def test_a_prompt_is_on_one_side_whatever_the_order(make_request: MakeRequest, root: Path) -> None:
    lines = [asked(n % 30, f"It is {n // 30}.") for n in range(90)]

    def held_out(examples: list[dict[str, Any]]) -> set[tuple[int, ...]]:
        request, _ = preview_fine_tuning(make_request(examples), root=root)
        tokenizer = BaseTokenizer(request.base_model, request.base_model_path)
        data = read_dataset(request, Settings(), tokenizer)
        apart = {tuple(row.prompt) for row in data.held_out}
        assert apart.isdisjoint(tuple(row.prompt) for row in data.training)
        assert len(data.prompts) == len(data.held_out) == 9
        assert all(prompt[0]["role"] == "user" for prompt in data.prompts)
        return apart

    assert held_out(lines) == held_out(lines[::-1])


def test_a_leak_between_the_halves_is_refused(
    make_request: MakeRequest, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "eval.jsonl"
    other.write_text("".join(json.dumps(asked(n)) + "\n" for n in (50, 3)))
    request = make_request([asked(n) for n in range(9)], eval_dataset_path=other)
    error = refusal(request, root)
    assert error.field == "eval_dataset_path"
    assert error.problems == ("line 2 asks what line 4 of the training data asks",)
    assert "Take the examples that are in both out" in str(error)
    other.write_text(json.dumps(asked(50)) + "\n")
    _, report = preview_fine_tuning(request, root=root)
    assert (report["trained_on"], report["held_out"]) == (9, 1)


def test_several_files_are_one_dataset(
    make_request: MakeRequest, root: Path, tmp_path: Path
) -> None:
    other, third = tmp_path / "other.jsonl", tmp_path / "eval.jsonl"
    other.write_text(as_lines([asked(n) for n in range(20, 30)]))
    request = make_request([asked(n) for n in range(20)], eval_dataset_path=third)
    request["dataset_path"] = [request["dataset_path"], other]
    third.write_text(as_lines([asked(50)]))
    _, report = preview_fine_tuning(request, root=root)
    assert (report["examples"], report["trained_on"], report["held_out"]) == (30, 30, 1)
    third.write_text(as_lines([asked(50), asked(21)]))
    error = refusal(request, root)
    assert error.problems == (
        f"line 2 asks what line 2 of {str(other)!r} of the training data asks",
    )
    other.write_text(as_lines([asked(20), {"text": "another kind"}]))
    assert f"line 2 of {str(other)!r} is of texts" in refusal(request, root).problem


def test_what_is_held_out_may_be_truncated(make_request: MakeRequest, root: Path) -> None:
    lines = [asked(n, "It is " + "so " * 900) for n in range(4)]
    request = make_request(lines, hyperparameters={"overlong": "truncate"})
    assert preview_fine_tuning(request, root=root)[1]["held_out"] == 1


def test_duplicates_are_counted(make_request: MakeRequest, root: Path) -> None:
    _, report = preview_fine_tuning(make_request([asked(n % 5) for n in range(12)]), root=root)
    assert report["duplicates"] == 7


@pytest.mark.parametrize(
    ("hyperparameters", "said"),
    [
        ({"rank": 513}, "rank must be at most 512, which is vLLM's limit, not 513"),
        ({"use_dora": True}, "use_dora=True asks for DoRA, and vLLM would not serve that"),
        ({"modules_to_save": ["lm_head"]}, "whole modules in an adapter"),
        (
            {"learning_rat": 1},
            "unknown hyperparameter 'learning_rat'; did you mean 'learning_rate'",
        ),
        ({"epochs": 0}, "epochs must be a number above 0, not 0"),
        ({"overlong": "cut"}, "overlong must be one of refuse, drop, truncate, not 'cut'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, 1 or more, not 2.5"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_named(
    hyperparameters: dict[str, Any], said: str, make_request: MakeRequest, root: Path
) -> None:
    error = refusal(make_request([asked(1)], hyperparameters=hyperparameters), root)
    assert error.field == "hyperparameters"
    assert said in error.problem
    assert error.hint


@pytest.mark.parametrize(
    ("lines", "fields", "field", "said"),
    [
        ([asked(1)], {"base_model": "test/plain"}, "base_model", "no chat template"),
        ([asked(1)], {"strategy": "qlora"}, "strategy", "is not there: vLLM would serve"),
        ([asked(1)], {"method": "dpo"}, "method", "cannot learn from conversations"),
        ([asked(1)], {"eval_fraction": 1}, "eval_fraction", "below 1, not 1"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    lines: list[Any],
    fields: dict[str, Any],
    field: str,
    said: str,
    make_request: MakeRequest,
    root: Path,
) -> None:
    error = refusal(make_request(lines, **fields), root)
    assert error.field == field
    assert said in error.problem


def test_what_does_not_fit_is_refused_with_the_figures(
    make_request: MakeRequest, root: Path
) -> None:
    lines = [asked(n, "so " * 150) for n in range(3)]
    request = make_request(lines, hyperparameters={"micro_batch_size": 10**7, "batch_size": 10**7})
    error = refusal(request, root)
    assert "of memory, and" in error.problem
    assert "micro_batch_size" in str(error.hint)


def test_as_many_rows_at_once_as_fit(make_request: MakeRequest, root: Path) -> None:
    lines = [asked(n, "so " * 150) for n in range(3)]
    _, report = preview_fine_tuning(make_request(lines), root=root)
    assert report["needs"]["micro_batch_size"] == 16
    request = make_request(lines, hyperparameters={"batch_size": 2**20})
    needs = preview_fine_tuning(request, root=root)[1]["needs"]
    assert needs["memory_bytes"] <= needs["free_bytes"] < 8 * needs["memory_bytes"]
    assert 2**20 % needs["micro_batch_size"] == 0
    request = make_request(lines, hyperparameters={"batch_size": 16, "micro_batch_size": 7})
    assert preview_fine_tuning(request, root=root)[1]["needs"]["micro_batch_size"] == 4


def test_rows_are_kept_in_files(tmp_path: Path, make_request: MakeRequest, root: Path) -> None:
    request, _ = preview_fine_tuning(make_request([asked(n) for n in range(9)]), root=root)
    tokenizer = BaseTokenizer(request.base_model, request.base_model_path)
    rows = read_dataset(request, read_settings(request), tokenizer).training
    rows.save(tmp_path / "rows.npz")
    again = Rows.load(tmp_path / "rows.npz")
    assert [(row.ids, row.spans) for row in again] == [(row.ids, row.spans) for row in rows]


_CHECK = """
import sys, time
from sage.common.components.sage_vllm.fine_tuning import FineTuneRequestError, preview_fine_tuning
request = dict(base_model="test/tiny", output_dir=sys.argv[1], strategy="lora")
for file in sys.argv[3:]:
    began = time.process_time()
    try:
        preview_fine_tuning({**request, "dataset_path": file}, root=sys.argv[2])
    except FineTuneRequestError as error:
        print(error.problems)
    print(time.process_time() - began)
status = open("/proc/self/status").read()  # getrusage would tell what pytest has had
most = next(int(line.split()[1]) >> 10 for line in status.splitlines() if "VmHWM" in line)
print(most)
print({"torch", "transformers", "vllm", "datasets"} & set(sys.modules))
"""


def test_a_hundred_thousand_lines_are_read_to_the_last_without_torch(
    tmp_path: Path, root: Path
) -> None:
    files = [tmp_path / "tenth.jsonl", tmp_path / "many.jsonl"]
    for file, count in zip(files, (10_000, 100_000), strict=True):
        with file.open("w") as lines:
            for number in range(count - 1):
                lines.write(json.dumps(asked(number)) + "\n")
            lines.write('{"messages": [{"role": "user", "content": "no answer"}]}\n')
    arguments = [tmp_path / "job", root, *files]
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, *map(str, arguments)],
        capture_output=True, text=True, check=True, timeout=480,
    )  # fmt: skip
    _, tenth, problems, seconds, megabytes, loaded = done.stdout.splitlines()
    assert problems == "('line 100000 has no turn of the assistant, so nothing to learn',)"
    assert float(seconds) < 20 * float(tenth)  # of a processor, whatever else the machine does
    assert float(megabytes) < 300
    assert loaded == "set()"
    assert not (tmp_path / "job").exists()
    assert list_models(root=root)
