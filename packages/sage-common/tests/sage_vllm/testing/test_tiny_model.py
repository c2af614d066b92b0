from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from sage.common.components.sage_vllm.testing.tiny_model import EOS, write_tiny_model


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def test_same_arguments_write_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first = digests(write_tiny_model(tmp_path / "deep" / "a"))
    assert digests(write_tiny_model(tmp_path / "b")) == first
    assert set(first) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    other = digests(write_tiny_model(tmp_path / "c", seed=1))
    assert other["model.safetensors"] != first["model.safetensors"]


def test_any_text_round_trips(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(write_tiny_model(tmp_path) / "tokenizer.json"))
    for text in ("hello there", "naïve 🙂 Ünï", "  tabs\tand\nlines ", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() <= 512
    assert tokenizer.token_to_id(EOS) == 1


def test_weights_are_bfloat16_and_follow_the_config(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, hidden_size=128, layers=3, heads=2, vocab_size=300)
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118 - it is no dict
        dtypes = {weights.get_slice(name).get_dtype() for name in shapes}
    assert dtypes == {"BF16"}
    assert shapes["model.embed_tokens.weight"] == [300, 128]
    assert shapes["model.layers.2.self_attn.q_proj.weight"] == [2 * config["head_dim"], 128]
    assert len(shapes) == 3 * 9 + 3


def test_chat_template_is_optional(tmp_path: Path) -> None:
    def tokenizer_config(folder: Path) -> dict[str, object]:
        content: dict[str, object] = json.loads((folder / "tokenizer_config.json").read_text())
        return content

    chat = write_tiny_model(tmp_path / "chat")
    plain = write_tiny_model(tmp_path / "plain", chat_template=False)
    assert "add_generation_prompt" in str(tokenizer_config(chat)["chat_template"])
    assert "chat_template" not in tokenizer_config(plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"hidden_size": 60, "heads": 8}, "for example 48"), ({"vocab_size": 200}, "below 259")],
)
def test_impossible_sizes_are_refused(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_tiny_model(tmp_path / "model", **arguments)  # type: ignore[arg-type]  # sizes only
    assert not (tmp_path / "model").exists()


def test_writing_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model\n"
        "assert not {'numpy', 'tokenizers'} & set(sys.modules)\n"
        "write_tiny_model(pathlib.Path(sys.argv[1]))\n"
        "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
