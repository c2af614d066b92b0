"""What waits for an earlier record is told apart, and costs no time any more."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from sage.kernel.runtime.metrics.run_metrics import OperatorMetrics, RunMetrics
from sage.kernel.runtime.progress.table import RunView
from sage.kernel.runtime.progress.text import Pace, running_line


def run(elapsed: float, *, out: int, held: int) -> RunMetrics:
    operator = OperatorMetrics(
        name="answer", kind="map", records_in=out + held + 4, records_out=out, in_flight=4,
        held=held, rate=1.0,
    )  # fmt: skip
    return RunMetrics(
        name="papers", state="running", elapsed=elapsed, operators=(operator,), length=1000,
        done=out, time_left=1e6, held=held,
    )  # fmt: skip


def paced(*runs: RunMetrics) -> Pace:
    pace = Pace()
    for metrics in runs:
        pace.add(metrics)
    return pace


def test_the_time_left_is_that_of_records_which_are_neither_done_nor_held() -> None:
    pace = paced(run(1, out=0, held=100), run(5, out=2, held=498))
    assert pace.time_left() == pytest.approx(500 * 4 / 400)
    assert pace.rates() == [pytest.approx(400 / 4)]


def test_records_that_go_on_after_a_while_do_not_count_twice() -> None:
    pace = paced(run(1, out=0, held=400), run(5, out=400, held=40))
    assert pace.time_left() == pytest.approx(560 * 4 / 40)


@pytest.mark.parametrize("held", [0, 1638])
def test_the_table_and_the_line_tell_what_is_held_from_what_is_in_flight(held: int) -> None:
    metrics = run(5, out=2, held=held)
    out = StringIO()
    Console(file=out, width=80).print(RunView(metrics, paced(metrics)))
    head, row = out.getvalue().splitlines()[:2]
    assert ("held" in head) == ("1,638" in row) == (held > 0)
    assert row.split()[4] == "4"
    said = "4 in flight, 1,638 held for an earlier one (" if held else "4 in flight ("
    assert said in running_line(metrics, paced(metrics))
