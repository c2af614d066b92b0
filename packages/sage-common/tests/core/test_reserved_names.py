"""Names of BaseService that a subclass may override, and not use for something else."""

from __future__ import annotations

from typing import Any

import pytest

from sage.common.service import BaseService


@pytest.mark.parametrize("name", ["setup", "start", "process", "stop", "cleanup", "open", "close"])
def test_a_value_in_a_methods_place_is_refused_when_the_class_is_defined(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine.{name} is 3, but '{name}' is reserved .* choose"):
        type("Mine", (BaseService,), {name: 3})


def test_so_is_one_that_an_instance_sets() -> None:
    class Generates(BaseService):
        def __init__(self, stop: list[str]) -> None:
            self.stop = stop  # type: ignore[method-assign,assignment]

    with pytest.raises(TypeError, match=r"Generates.stop is \['###'\], .* such as stop_value"):
        Generates(["###"])


def test_methods_of_any_kind_may_take_its_place() -> None:
    class Fine(BaseService):
        @classmethod
        def start(cls) -> None: ...

        @staticmethod
        def stop() -> None: ...

        def process(self, payload: Any) -> Any:
            return payload

    service = Fine()
    service.process = lambda payload: 2 * payload  # type: ignore[method-assign]
    assert not service.accepts_calls
    with service:
        assert service.accepts_calls
        assert service.process(1) == 2
    assert not service.accepts_calls
