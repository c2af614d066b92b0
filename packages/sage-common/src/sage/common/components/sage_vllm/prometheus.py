"""VLLMServiceCollector: a service's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.service import VLLMService

_GAUGES = {
    "running": "Requests that the engine works on",
    "waiting": "Requests that wait for their turn in the engine",
    "in_flight": "Requests without a result yet",
    "batch_occupancy": "Mean share of the largest batch that steps worked on, 0 to 1",
    "kv_cache_usage": "Share of the KV cache in use, 0 to 1",
    "prefix_cache_hit_rate": "Share of prompt tokens found in the prefix cache, 0 to 1",
}
_COUNTERS = {
    "requests_done": "Requests done",
    "prompt_tokens": "Tokens of prompts of requests done",
    "completion_tokens": "Tokens generated for requests done",
    "steps": "Steps of the engine",
    "busy_seconds": "Seconds spent in steps",
    "restarts": "Times that an engine which had died was built again",
}


class VLLMServiceCollector(Collector):
    """Reads the service's figures whenever Prometheus asks.

    Register it, and have Prometheus scrape the port::

        prometheus_client.REGISTRY.register(VLLMServiceCollector(service))
        prometheus_client.start_http_server(9100)

    All names begin with ``sage_vllm_``; the labels are the model and the role, text or embedding.
    """

    def __init__(self, service: VLLMService) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not ask a service that is not open yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as of now."""
        health = self._service.health()
        up = GaugeMetricFamily(
            "sage_vllm_up", "1 if the service takes calls, with its state", labels=["state"]
        )
        up.add_metric([health["state"]], float(health["state"] not in ("failed", "closed")))
        yield up
        if not health["engines"]:
            return
        text = self._service.stats()
        engines: dict[str, Any] = {Role.GENERATE.label: text}
        if (embedding := Role.EMBED.label) in text:
            engines[embedding] = text[embedding]
        engines = {role: stats for role, stats in engines.items() if "model_id" in stats}
        for metric, name in self._families():
            for role, stats in engines.items():
                metric.add_metric([stats["model_id"], role], stats[name])
            yield metric
        latency = GaugeMetricFamily(
            "sage_vllm_latency_seconds",
            "Percentiles of the latency of recent requests",
            labels=["model_id", "role", "quantile"],
        )
        for role, stats in engines.items():
            for percentile, seconds in stats["latency_seconds"].items():
                quantile = str(int(percentile.removeprefix("p")) / 100)
                latency.add_metric([stats["model_id"], role, quantile], seconds)
        yield latency

    @staticmethod
    def _families() -> Iterator[tuple[GaugeMetricFamily | CounterMetricFamily, str]]:
        labels = ["model_id", "role"]
        for name, meaning in _GAUGES.items():
            yield GaugeMetricFamily(f"sage_vllm_{name}", meaning, labels=labels), name
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"sage_vllm_{name}", meaning, labels=labels), name
