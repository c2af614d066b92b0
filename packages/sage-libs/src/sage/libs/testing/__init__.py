"""What tests of pipelines need: pytest fixtures, and a stub for services of your own.

One line in ``conftest.py``, or at the top of a test module, brings the fixtures::

    pytest_plugins = ["sage.libs.testing"]

Then a test runs a pipeline with nothing loaded but Python::

    from sage.libs.operators import VLLMServiceGenerator
    from sage.middleware.services.vllm import register_vllm_service

    def test_tickets_are_sorted(sage_env, echo_service):
        service = echo_service(answers={"printer on fire": "urgent"})
        register_vllm_service(sage_env, service=service)
        tickets = sage_env.from_collection(["printer on fire"])
        (ticket,) = tickets.map(VLLMServiceGenerator, choice=["later", "urgent"]).collect()
        assert ticket["generated"] == "urgent"

Nothing here asserts, so a test may import StubService too. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.libs.testing.fixtures import echo_service, sage_env, stub_service
    from sage.libs.testing.stub import StubCall, StubService

__all__ = [
    "StubCall",
    "StubService",
    "echo_service",
    "sage_env",
    "stub_service",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "StubCall": "sage.libs.testing.stub",
        "StubService": "sage.libs.testing.stub",
        "echo_service": "sage.libs.testing.fixtures",
        "sage_env": "sage.libs.testing.fixtures",
        "stub_service": "sage.libs.testing.fixtures",
    },
)
