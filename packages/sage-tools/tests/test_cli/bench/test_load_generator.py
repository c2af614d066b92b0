"""What `sage llm bench` measures with, on an engine without weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import import_model
from sage.tools.cli.bench.load_generator import make_prompts, measure_level, percentile

MODEL = "test/echo"


class CountingService(VLLMService):
    """Notes how many calls are under way at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most = self.now = self.streams = 0
        self.lock = threading.Lock()

    def generate(self, prompts: Any, **options: Any) -> list[dict[str, Any]]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return super().generate(prompts, **options)
        finally:
            with self.lock:
                self.now -= 1

    def stream(self, prompt: Any, **options: Any) -> Any:
        self.streams += 1
        return super().stream(prompt, **options)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[CountingService]:
    root = tmp_path / "registry"
    import_model(MODEL, write_echo_model(tmp_path / "echo"), root=root)
    config = {"model_id": MODEL, "model_root": root}
    with CountingService(config, engine_factory=EchoEngine) as opened:
        yield opened


def test_prompts_differ_and_have_the_length_asked_for(service: CountingService) -> None:
    prompts = make_prompts(service, 20, 12)
    assert len(set(prompts)) == 20
    assert service.count_tokens(prompts) == [12] * 20


def test_every_request_is_sent_once_and_no_more_at_a_time_than_asked_for(
    service: CountingService,
) -> None:
    prompts = make_prompts(service, 100, 12)
    told: list[int] = []
    result = measure_level(service, prompts, in_flight=4, max_tokens=5, on_progress=told.append)
    assert service.most <= 4
    assert service.streams == len(result.first_tokens) == 17
    assert service.stats()["requests_done"] == len(result.latencies) == 100
    assert told[-1] == 100
    plain = result.to_json()
    assert plain["requests"] == 100
    assert plain["prompt_tokens"] == 1200
    assert plain["total_tokens_per_second"] == pytest.approx(
        (1200 + plain["output_tokens"]) / plain["seconds"]
    )


def test_a_refused_request_is_raised_and_the_others_are_given_up(service: CountingService) -> None:
    with pytest.raises(ValueError, match="prompt"):
        measure_level(service, ["fine", ""], in_flight=1, max_tokens=5)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 99, 3.0), ([4.0, 1.0, 3.0, 2.0], 50, 2.0), ([4.0, 1.0, 3.0, 2.0], 95, 4.0)],
)
def test_percentiles_are_values_that_were_measured(
    values: Sequence[float], share: int, expected: float
) -> None:
    assert percentile(values, share) == expected
