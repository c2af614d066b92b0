"""Writes the zoo into a folder, and beside each model what transformers makes of the prompts.

In a process of its own: vLLM replaces parts of transformers' models where it is loaded.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from zoo_models import (
    ENCODERS,
    NEW_TOKENS,
    PROMPTS,
    TEXT,
    variants,
    write_model,
    write_modules,
    write_tokenizer,
)


def _continued(model: Any, prompt: str) -> tuple[list[str], list[float]]:
    token_ids = torch.tensor([[int(word[1:]) for word in prompt.split()]])
    with torch.inference_mode():
        out = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    new = out.sequences[0, token_ids.shape[1] :].tolist()
    best = [scores[0].topk(2).values for scores in out.scores]
    # Special tokens are no text; the service leaves them out too.
    return [f"w{n}" if n > 2 else "" for n in new], [float(two[0] - two[1]) for two in best]


def main(folder: Path) -> None:
    """Write all models and references."""
    write_tokenizer(folder / "tokenizer")
    for name, species in TEXT.items():
        model = write_model(folder / name, species, generates=True)
        if not species.refused:
            wanted = {
                "parameters": model.num_parameters(),
                "continued": [_continued(model, prompt) for prompt in PROMPTS],
            }
            (folder / f"{name}.json").write_text(json.dumps(wanted))
    for name, species in ENCODERS.items():
        for variant, pooling, dense in variants(name):
            write_model(folder / variant, species, generates=False)
            if pooling:
                write_modules(folder / variant, pooling, dense=dense)
            if not species.refused:
                reference = SentenceTransformer(str(folder / variant), device="cpu")
                vectors = reference.encode(PROMPTS, normalize_embeddings=True)
                np.save(folder / f"{variant}.npy", vectors)


warnings.simplefilter("ignore")
main(Path(sys.argv[1]))
