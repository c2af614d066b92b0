"""PrefixOrder: starts prompts that begin alike one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sage.common.components.sage_vllm.requests.inputs import are_token_ids
from sage.common.components.sage_vllm.requests.media.content_parts import content_text
from sage.common.core.errors import nearest
from sage.common.core.functions import StartOrder

PrefixMode = Literal["auto", "on", "off"]

_MODES = ("auto", "on", "off")
_WORTH_WHILE = 0.1  # of the text of a sample: what the order must let prompts share
_SAMPLE = 1024  # prompts, of each
_SAMPLED_OF = 8192  # that come
_LOOK_AT = (64, 256, _SAMPLE)  # how many of a sample are there when it is looked at
_SAMPLED_CHARACTERS = 4096  # of a prompt, at most
_LEAST_STEM = 256  # letters; an engine shares only whole blocks of 16 to 128 tokens
_NEAR = 8  # prompts: what was in so few before is in the cache in any order
_KEPT_BESIDE = 2048  # bytes of a record beside its prompt: Future, answer, its details
_TOKEN_BYTES = 4  # of an answer's text

ReadPrompt = Callable[[Any], tuple[Any, Mapping[str, Any]]]
"""Returns a record's prompt, and the options that it is generated with."""


class PrefixOrder(StartOrder):
    """The StartOrder of prompts: by text, so that common stems follow each other.

    An engine keeps the keys and values of stems that it has computed until others need the room.
    If prompts of one stem are apart, it computes the stem anew each time.

    Args:
        mode: ``"on"``; or ``"auto"``: on where a sample of the prompts has in the order of their
            texts at least a tenth more in common than in the order in which they come, off else.
            Only what lets a prompt share 256 letters more counts, since an engine shares whole
            blocks. A system prompt of all records is no reason: it is shared in any order.
        window_bytes: how much the records that are looked at, or held, may take: their prompts,
            answers of ``max_tokens``, and 2 KB each.
        read: gives prompts and options. What it raises is left for the record's start to raise.
    """

    def __init__(self, mode: str, window_bytes: int, read: ReadPrompt) -> None:
        self._mode = mode
        self._window_bytes = window_bytes
        self._read = read
        self._on = True  # also until a first sample says otherwise
        self._sample: list[str] = []
        self._came = self._sampled = 0
        self._shared = self._shared_anyway = 0.0

    @property
    def window_bytes(self) -> int:
        """How much the records of the window may take; 0 while it is off."""
        return self._window_bytes if self._on else 0

    @property
    def held_bytes(self) -> int:
        """How much the records may take of which some are held; on or off."""
        return self._window_bytes

    def place(self, record: Any) -> tuple[Any, int]:
        """Return a record's place in the order: by its priority, its adapter, its text."""
        try:
            prompt, options = self._read(record)
            text = stem_text(prompt)
            priority, adapter = options.get("priority") or 0, options.get("lora") or ""
            key = (int(priority), str(adapter), text)
            answer = (options.get("max_tokens") or 0) * (options.get("n") or 1) * _TOKEN_BYTES
        except Exception:  # noqa: BLE001 - it is the record's, and submit() raises it again
            self._look("")
            return (), _KEPT_BESIDE
        self._look(text)
        return (key if self._on else ()), text.__sizeof__() + answer + _KEPT_BESIDE

    def metrics(self) -> dict[str, Any]:
        """Return what it does, and what share of the latest sample's text made it do so."""
        return {
            "prefix_order": "on" if self._on else "off",
            "mode": self._mode,
            "sampled": self._sampled,
            "shared": round(self._shared, 3),
            "shared_as_they_come": round(self._shared_anyway, 3),
        }

    def _look(self, text: str) -> None:
        """Add a prompt to the sample, and decide when there are enough."""
        sample = self._sample
        self._came += 1
        if (self._came - 1) % _SAMPLED_OF >= _SAMPLE:
            return
        sample.append(text[:_SAMPLED_CHARACTERS])
        if len(sample) not in _LOOK_AT:
            return
        self._sampled = len(sample)
        letters = sum(map(len, sample)) or 1
        in_order = sorted(range(len(sample)), key=sample.__getitem__)
        shared = shared_lengths([sample[index] for index in in_order])
        anyway = shared_lengths(sample, near=_NEAR)
        self._shared, self._shared_anyway = sum(shared) / letters, sum(anyway) / letters
        if self._mode == "auto":
            gains = [own - anyway[index] for own, index in zip(shared, in_order, strict=True)]
            gained = sum(gain for gain in gains if abs(gain) >= _LEAST_STEM)
            self._on = gained / letters >= _WORTH_WHILE
        if len(sample) == _SAMPLE:
            sample.clear()


def check_prefix_order(mode: str, window_bytes: int) -> None:
    """Raise ValueError for what is no mode, or no size of a window."""
    if mode not in _MODES:
        hint = nearest(str(mode), list(_MODES))
        raise ValueError(f'prefix_order must be "auto", "on" or "off", not {mode!r}; {hint}')
    if isinstance(window_bytes, bool) or not isinstance(window_bytes, int) or window_bytes < 1:
        raise ValueError(
            f"prefix_window_bytes must be a whole number of bytes, 1 or more, not "
            f'{window_bytes!r}; prefix_order="off" needs no window'
        )


def stem_text(prompt: Any) -> str:
    """Return a text of a prompt that begins as another's does if their tokens do.

    A conversation's is that of its messages, one after the other.
    """
    if isinstance(prompt, Mapping):
        kinds = ("messages", "prompt", "prompt_token_ids")
        prompt = next((prompt[kind] for kind in kinds if prompt.get(kind)), None)
    if isinstance(prompt, str):
        return prompt
    if are_token_ids(prompt):
        return " ".join(map(str, prompt))
    return "\n".join(
        f"{message['role']}\n{content_text(message.get('content'))}" for message in prompt
    )


def shared_lengths(texts: Sequence[str], *, near: int = 1) -> list[int]:
    """Return how many letters each text begins with as one of the ``near`` texts before it."""
    before: deque[str] = deque(maxlen=near)
    lengths = []
    for text in texts:
        lengths.append(max((_common_length(text, other) for other in before), default=0))
        before.append(text)
    return lengths


def _common_length(one: str, other: str) -> int:
    """Return how many letters two texts begin with alike; comparing slices is fast."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
