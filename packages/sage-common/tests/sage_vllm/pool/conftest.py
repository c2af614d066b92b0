"""A machine with room for a few small engines, whose every step a test can hold up."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_abilities import DeviceMemory
from sage.common.components.sage_vllm.engine_contract import (
    EngineInfo,
    EngineSpec,
    EngineState,
    Generation,
    OnText,
    Prompt,
)
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.planning.memory_check import Fit, InsufficientMemoryError
from sage.common.components.sage_vllm.planning.memory_estimate import MemoryEstimate
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import import_model

sys.path.append(str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

SIZE = 100  # bytes that an engine takes of its machine, unless it is told otherwise


class SmallEngine(EchoEngine):
    """Echoes; a prompt that begins with "hold" stays in flight until it is let, or closed."""

    def __init__(self, spec: EngineSpec, machine: Machine) -> None:
        super().__init__(spec)
        self.spec = spec
        self._machine = machine
        self._held: list[Future[Generation]] = []
        self._drained = threading.Condition()
        self.now: EngineState = "ready"

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, memory_bytes=SIZE)

    @property
    def state(self) -> EngineState:
        return "closed" if super().state == "closed" else self.now

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        done = super().submit(prompt, options, on_text)
        if self.spec.model_id == "test/mute":
            raise RuntimeError("it cannot speak")
        if not str(prompt).startswith("hold"):
            return done
        held: Future[Generation] = Future()
        with self._drained:
            self._held.append(held)
        return held

    def let_go(self) -> None:
        """Finish what is held."""
        self._finish(
            lambda future: future.set_result(EchoEngine(self.spec).submit("let", {}).result())
        )

    def close(self, *, drain: bool = False) -> None:
        if drain:
            self._machine.pause("draining")
            with self._drained:
                self._drained.wait_for(lambda: not self._held)
        super().close()
        self._finish(lambda future: future.set_exception(EngineClosedError(self.spec.model_id)))
        if self in self._machine.alive:
            self._machine.alive.remove(self)

    def _finish(self, settle: Callable[[Future[Generation]], None]) -> None:
        with self._drained:
            held, self._held = self._held, []
            self._drained.notify_all()
        for future in held:
            if future.set_running_or_notify_cancel():
                settle(future)


class Machine:
    """Builds small engines while it has memory; pauses where it is told to.

    Phases are ``"building"`` and ``"draining"``. A model called ``test/broken`` cannot be built.
    """

    def __init__(self, room: int = 10) -> None:
        self.free_for = room  # engines
        self.alive: list[SmallEngine] = []
        self.built: list[EngineSpec] = []
        self.broken = {"test/broken"}
        self.sizes: dict[str, int] = {}  # by model, what it would take
        self._pauses: dict[str, tuple[threading.Event, threading.Event]] = {}

    def __call__(self, spec: EngineSpec) -> SmallEngine:
        if len(self.alive) >= self.free_for:
            fit = Fit(problem="it is full")
            raise InsufficientMemoryError(spec.model_id, fit, self._estimate(spec))
        self.pause("building")
        if spec.model_id in self.broken:
            raise RuntimeError(f"{spec.model_id} is broken")
        self.built.append(spec)
        self.alive.append(SmallEngine(spec, self))
        return self.alive[-1]

    def hold(self, phase: str) -> None:
        """Have whoever comes to this phase wait there until ``let``."""
        self._pauses[phase] = (threading.Event(), threading.Event())

    def until(self, phase: str) -> None:
        """Wait until somebody is held there."""
        assert self._pauses[phase][0].wait(60)

    def let(self, phase: str) -> None:
        """Let them go on, and all who come later."""
        self._pauses.pop(phase)[1].set()

    def pause(self, phase: str) -> None:
        """Wait here if it is held."""
        if (pause := self._pauses.get(phase)) is not None:
            pause[0].set()
            assert pause[1].wait(60)

    def _estimate(self, spec: EngineSpec) -> MemoryEstimate:
        return MemoryEstimate(
            model_id=spec.model_id,
            role=spec.role,
            dtype="none",
            weight_bytes=self.sizes.get(spec.model_id, SIZE),
            overhead_bytes=0,
            cache=None,
            model_max_len=1,
            max_model_len=1,
            batch_size=1,
            step_tokens=1,
        )


class MeasuredMachine(Machine):
    """A machine that can tell what an engine will take, of ``total`` bytes.

    ``others`` is what other programs have taken. Each model takes its size, 100 unless it is told.
    """

    def __init__(self, total: int = 250) -> None:
        super().__init__()
        self.total = total
        self.others = 0
        self.most = 0  # bytes that its engines have held together

    @property
    def taken(self) -> int:
        return sum(self.size(engine.spec) for engine in list(self.alive))

    def size(self, spec: EngineSpec) -> int:
        return self.sizes.get(spec.model_id, SIZE)

    def device_memory(self) -> DeviceMemory:
        return DeviceMemory(free=self.total - self.others - self.taken, total=self.total)

    def taken_memory(self) -> int:
        return self.taken

    def plan(self, spec: EngineSpec) -> tuple[EngineSpec, int]:
        limit = self.total if spec.memory_limit is None else spec.memory_limit
        self._check(spec, limit)
        return spec, self.size(spec)

    def __call__(self, spec: EngineSpec) -> SmallEngine:
        free = self.device_memory().free
        self._check(spec, free if spec.memory_limit is None else min(free, spec.memory_limit))
        engine = super().__call__(spec)
        self.most = max(self.most, self.taken)
        return engine

    def _check(self, spec: EngineSpec, room: int) -> None:
        if self.size(spec) > room:
            fit = Fit(problem=f"it needs {self.size(spec)} and {room} are free", available=room)
            raise InsufficientMemoryError(spec.model_id, fit, self._estimate(spec))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of models that only small engines know."""
    folder = tmp_path_factory.mktemp("pool")
    for name in ("one", "other", "third", "fourth", "mute", "broken", "vectors"):
        model = write_echo_model(folder / name)
        import_model(f"test/{name}", model, root=folder / "registry")
    return folder / "registry"


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def measured() -> MeasuredMachine:
    """A machine with room for two engines and a half."""
    return MeasuredMachine()


@pytest.fixture
def make_pool(root: Path, machine: Machine) -> Callable[..., EnginePool]:
    """A function that makes a pool on the machine; the text model is ``test/one``."""

    def make(**settings: Any) -> EnginePool:
        config = VLLMServiceConfig(model_root=root, **{"model_id": "test/one", **settings})
        return EnginePool(config, machine)

    return make
