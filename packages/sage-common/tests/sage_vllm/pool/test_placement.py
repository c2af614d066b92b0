"""FairPlacement: the rule in single steps, and what becomes of callers under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from simulation import Model, Simulation, loop, pipeline

from sage.common.components.sage_vllm.pool.placement import FairPlacement, Standing, Step

MAX_WAIT = 30.0
RULE = FairPlacement(MAX_WAIT)


def resident(name: str, **facts: Any) -> Standing:
    return Standing(name=name, **{"bytes": 1, "idle": 60.0, **facts}, resident=True)


def wanted(name: str, **facts: Any) -> Standing:
    return Standing(name=name, **{"bytes": 1, "waiting": 1, **facts})


# -- single steps ---------------------------------------------------------------------------------


def test_with_nothing_to_do_nothing_is_done() -> None:
    assert RULE.next_step([], 10) == Step()
    assert RULE.next_step([resident("a", idle=0.0), Standing(name="b")], 0) == Step()


def test_what_fits_is_loaded_beside_the_others() -> None:
    assert RULE.next_step([resident("a", running=3), wanted("b")], 1) == Step(load="b")


def test_the_least_recently_used_of_the_idle_ones_makes_place() -> None:
    models = [resident("a", idle=5.0), resident("b", idle=9.0), wanted("c")]
    assert RULE.next_step(models, 0) == Step(load="c", evict=("b",))
    assert RULE.next_step([*models[:2], wanted("c", bytes=2)], 0).evict == ("b", "a")


def test_a_model_with_calls_keeps_its_place_until_another_has_waited_too_long() -> None:
    models = [resident("a", running=1, placed=50.0), resident("b", running=1, placed=90.0)]
    step = RULE.next_step([*models, wanted("c", waited=12.0)], 0)
    assert (step.acts, step.after) == (False, MAX_WAIT - 12.0)
    late = [*models, wanted("c", waited=MAX_WAIT)]
    assert RULE.next_step(late, 0) == Step(load="c", evict=("b",))


def test_an_idle_model_goes_at_once_only_if_nobody_is_at_work() -> None:
    quiet = [resident("a", idle=0.1), resident("b", idle=0.2), wanted("c")]
    assert RULE.next_step(quiet, 0).evict == ("b",)
    restless = [resident("a", idle=0.01), resident("b", idle=0.02), wanted("c")]
    assert RULE.next_step(restless, 0).after == pytest.approx(0.04)
    busy = [resident("a", running=1), resident("b", idle=0.2, load_seconds=3.0), wanted("c")]
    assert RULE.next_step(busy, 0).after == pytest.approx(2.8)
    rested = [busy[0], resident("b", idle=3.0, load_seconds=3.0), wanted("c")]
    assert RULE.next_step(rested, 0).evict == ("b",)


def test_the_most_work_for_a_second_of_loading_goes_first_but_for_who_waited_too_long() -> None:
    small = wanted("small", waiting=10, load_seconds=1.0)
    large = wanted("large", waiting=40, load_seconds=8.0)
    assert RULE.next_step([large, small], 1).load == "small"
    assert RULE.next_step([wanted("large", waiting=90, load_seconds=8.0), small], 1).load == "large"
    late = wanted("late", waited=MAX_WAIT, load_seconds=100.0)
    later = wanted("later", waited=MAX_WAIT + 1, load_seconds=100.0)
    assert RULE.next_step([small, late, later], 1).load == "later"


def test_one_that_must_wait_for_its_place_holds_up_none_that_fits() -> None:
    models = [resident("a", running=1), wanted("big", bytes=2, waiting=99), wanted("small")]
    assert RULE.next_step(models, 1) == Step(load="small")


def test_what_no_place_can_be_made_for_is_tried_in_vain_and_moves_nobody() -> None:
    models = [resident("a", pinned=True, bytes=3), resident("b"), wanted("c", bytes=3)]
    assert RULE.next_step(models, 1) == Step(load="c", in_vain=True)
    assert RULE.next_step([resident("a", pinned=True), wanted("c")], 0).in_vain


def test_a_pinned_model_stays_whoever_waits_how_long() -> None:
    models = [resident("a", pinned=True, idle=900.0), resident("b", running=1)]
    assert RULE.next_step([*models, wanted("c", waited=99.0)], 0).evict == ("b",)


def test_a_load_that_found_no_memory_moves_another_model_first() -> None:
    models = [resident("a"), resident("b", idle=9.0), wanted("c", bytes=0, crowded=True)]
    assert RULE.next_step(models, float("inf")) == Step(load="c", evict=("a",))
    assert RULE.next_step([models[2]], float("inf")) == Step(load="c", in_vain=True)


def test_a_model_that_is_not_to_stay_goes_when_it_was_idle_for_so_long() -> None:
    short = resident("a", keep_alive=5.0, idle=3.0)
    assert RULE.next_step([short], 0).after == pytest.approx(2.0)
    assert RULE.next_step([resident("a", keep_alive=5.0, idle=5.0)], 0) == Step(evict=("a",))
    assert RULE.next_step([resident("a", keep_alive=5.0, running=1)], 0) == Step()


# -- callers under it -----------------------------------------------------------------------------


class SwapAtOnce:
    """Evicts the least recently used model whenever another is asked for."""

    def next_step(self, models: Sequence[Standing], room: float) -> Step:
        for model in models:
            if model.waiting and not model.resident:
                if model.bytes <= room:
                    return Step(load=model.name)
                oldest = max((m for m in models if m.resident), key=lambda each: each.idle)
                return Step(load=model.name, evict=(oldest.name,))
        return Step()


def three() -> list[Model]:
    return [Model(name) for name in "abc"]


@pytest.mark.parametrize("window", [64, 128, 512])
def test_a_rotation_over_three_models_with_room_for_two_loads_a_few_times(window: int) -> None:
    simulation = Simulation(RULE, three(), room=2)
    emitted = pipeline(simulation, ["a", "b", "c"] * 200, window)
    simulation.run()
    assert emitted == list(range(600))
    assert simulation.loads <= 12


def test_callers_of_one_model_each_take_turns_at_most_once_in_max_wait() -> None:
    def seconds(rule: Any) -> tuple[int, list[int], float]:
        simulation = Simulation(rule, three(), room=2)
        calls = [loop(simulation, [name]) for name in "abc"]
        simulation.run(until=600.0)
        return simulation.loads, [len(each) for each in calls], simulation.longest_wait

    loads, answered, longest = seconds(RULE)
    assert loads <= 2 + 600 / MAX_WAIT
    assert longest < MAX_WAIT + 4.0  # a load, and what is finished before it
    assert min(answered) > 0.4 * max(answered)
    swapping = seconds(SwapAtOnce())
    assert swapping[0] > 5 * loads
    assert sum(answered) > 1.5 * sum(swapping[1])
    assert min(answered) > 10 * min(swapping[1])


def test_a_caller_that_asks_all_models_in_turn_waits_for_loads_alone() -> None:
    simulation = Simulation(RULE, three(), room=2)
    answered = loop(simulation, ["a", "b", "c"])
    simulation.run(until=300.0)
    assert simulation.longest_wait < 3.1
    assert len(answered) >= 95


def test_a_pinned_model_is_loaded_once_under_any_pressure() -> None:
    models = [Model("a", pinned=True), Model("b"), Model("c"), Model("d")]
    simulation = Simulation(RULE, models, room=2)
    emitted = pipeline(simulation, ["a", "b", "c", "d"] * 100, 64)
    loop(simulation, ["b"])
    simulation.run(until=900.0)
    assert len(emitted) == 400
    assert simulation.models["a"].loads == 1


def test_a_crowd_at_one_model_does_not_starve_the_others() -> None:
    models = [Model(name, call_seconds=0.5) for name in "abc"]
    simulation = Simulation(RULE, models, room=1)
    crowd = [loop(simulation, ["a"]) for _ in range(20)]
    few = [loop(simulation, [name]) for name in "bc"]
    simulation.run(until=600.0)
    assert simulation.longest_wait < 2 * MAX_WAIT + 10
    assert all(len(each) > 5 for each in few)
    assert all(len(each) > 100 for each in crowd)
