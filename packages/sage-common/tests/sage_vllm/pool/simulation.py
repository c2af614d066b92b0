"""Callers, engines and loads in simulated time, under a rule of placement."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from sage.common.components.sage_vllm.pool.placement import Placement, Standing


@dataclass
class Model:
    name: str
    bytes: int = 1
    load_seconds: float = 3.0
    call_seconds: float = 0.02
    pinned: bool = False
    resident: bool = False
    running: int = 0
    waiting: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    used: float = 0.0
    placed: float = 0.0
    loads: int = 0


class Simulation:
    """An engine answers each call after the model's ``call_seconds``, any number side by side."""

    def __init__(self, rule: Placement, models: Sequence[Model], room: int) -> None:
        self.rule = rule
        self.models = {model.name: model for model in models}
        self.room = room
        self.now = 0.0
        self.longest_wait = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._acting = False
        self._next_look = 0.0

    @property
    def loads(self) -> int:
        return sum(model.loads for model in self.models.values())

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), do))

    def call(self, name: str, done: Callable[[], None]) -> None:
        model = self.models[name]
        if model.resident:
            self._start(model, done)
        else:
            model.waiting.append((self.now, done))

    def run(self, until: float = 1e9) -> None:
        """Go on until nothing happens any more, or for so many seconds."""
        while True:
            self._decide()
            if not self._events or self._events[0][0] > until:
                return
            self.now, _, do = heapq.heappop(self._events)
            do()

    def _start(self, model: Model, done: Callable[[], None]) -> None:
        model.running += 1

        def end() -> None:
            model.running -= 1
            model.used = self.now
            done()

        self.later(model.call_seconds, end)

    def _decide(self) -> None:
        if self._acting:
            return
        taken = sum(model.bytes for model in self.models.values() if model.resident)
        step = self.rule.next_step(
            [self._standing(m) for m in self.models.values()], self.room - taken
        )
        if not step.acts:
            if step.after is not None and any(m.waiting for m in self.models.values()):
                self._look_at(self.now + step.after)
            return
        self._acting = True
        for name in step.evict:
            assert not self.models[name].pinned
            self.models[name].resident = False
        self._when_drained(step.evict, step.load)

    def _look_at(self, time: float) -> None:
        """Have the rule asked again then, unless it will be before."""
        if not self.now < self._next_look <= time:
            self._next_look = time
            self.later(time - self.now, lambda: None)

    def _when_drained(self, evicted: Sequence[str], load: str | None) -> None:
        if any(self.models[name].running for name in evicted):
            self.later(0.01, lambda: self._when_drained(evicted, load))
        elif load is None:
            self._acting = False
        else:
            model = self.models[load]
            self.later(model.load_seconds, lambda: self._loaded(model))

    def _loaded(self, model: Model) -> None:
        self._acting = False
        model.loads += 1
        model.resident = True
        model.used = model.placed = self.now
        assert sum(m.bytes for m in self.models.values() if m.resident) <= self.room
        while model.waiting:
            since, done = model.waiting.popleft()
            self.longest_wait = max(self.longest_wait, self.now - since)
            self._start(model, done)

    def _standing(self, model: Model) -> Standing:
        return Standing(
            name=model.name,
            bytes=model.bytes,
            resident=model.resident,
            pinned=model.pinned,
            running=model.running,
            waiting=len(model.waiting),
            waited=self.now - model.waiting[0][0] if model.waiting else 0.0,
            idle=0.0 if model.running else self.now - model.used,
            placed=self.now - model.placed,
            load_seconds=model.load_seconds,
        )


def pipeline(simulation: Simulation, names: Sequence[str], window: int) -> list[int]:
    """Have records call these models, so many in flight, emitted in order; return those emitted."""
    done: set[int] = set()
    emitted: list[int] = []
    pending = deque(enumerate(names))

    def fill() -> None:
        while len(emitted) in done:
            emitted.append(len(emitted))
        while pending and pending[0][0] < len(emitted) + window:
            number, name = pending.popleft()
            simulation.call(name, partial(end, number))

    def end(number: int) -> None:
        done.add(number)
        fill()

    fill()
    return emitted


def loop(simulation: Simulation, names: Sequence[str], *, pause: float = 0.001) -> list[float]:
    """Have one caller call these models in turn, for ever; return when each call was answered."""
    answered: list[float] = []

    def call() -> None:
        simulation.call(names[len(answered) % len(names)], end)

    def end() -> None:
        answered.append(simulation.now)
        simulation.later(pause, call)

    call()
    return answered
