"""What transformers with PEFT says, token by token, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage.common.model_registry.vllm_registry import get_model_path
from sage.tools.demo_model import MODEL_ID

NEAR = 1e-3
"""Log-probabilities that are less apart may change places."""

_PROGRAM = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, given, count = *sys.argv[1:4], int(sys.argv[4])
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()
prompts = [
    tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    for turns in json.load(open(given))
]
answers = [None] * len(prompts)
for length in set(map(len, prompts)):  # those of one length at once: nothing has to be filled up
    places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
    ids = torch.tensor([prompts[place] for place in places])
    told = [[] for _ in places]
    with torch.no_grad():
        for _ in range(count):
            two = model(ids).logits[:, -1].log_softmax(-1).topk(2)
            for answer, tokens, values in zip(told, two.indices.tolist(), two.values.tolist()):
                answer.append([tokens[0], *values])
            ids = torch.cat([ids, two.indices[:, :1]], dim=1)
    for place, answer in zip(places, told):
        answers[place] = answer
print(json.dumps(answers))
"""


def peft_answers(
    root: Path, adapter: Path, prompts: Sequence[Any], folder: Path, count: int = 32
) -> list[list[tuple[int, float, float]]]:
    """Return for each token of each greedy answer: its id, its log-probability, the second best."""
    given = folder / "prompts.json"
    given.write_text(json.dumps(prompts))
    base = str(get_model_path(MODEL_ID, root=root))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, base, str(adapter), str(given), str(count)],
        capture_output=True, text=True, check=False, timeout=480,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [[tuple(each) for each in answer] for answer in json.loads(done.stdout.splitlines()[-1])]


def ids(answer: dict[str, Any]) -> list[int]:
    """Return the tokens of an answer of a service."""
    return [token["token_id"] for token in answer["logprobs"]]


def apart(
    ours: Sequence[dict[str, Any]], theirs: Sequence[tuple[int, float, float]], near: float = NEAR
) -> float:
    """Return how far log-probabilities are apart at most; the tokens must be the same.

    Where they are not, the two best must have been a near-tie; what follows is another text.
    """
    most = 0.0
    assert len(ours) == len(theirs)
    for own, (token, best, second) in zip(ours, theirs, strict=True):
        if own["token_id"] != token:
            assert best - second < near, (own, token, best, second)
            break
        most = max(most, abs(own["logprob"] - best))
    return most
