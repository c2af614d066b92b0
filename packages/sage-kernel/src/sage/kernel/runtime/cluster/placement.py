"""Placement: how many processes a cluster has room for, before any is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from sage.kernel.runtime.cluster.cluster import Need, Node
from sage.kernel.runtime.cluster.errors import PlacementError


class Placement:
    """What the machines of a cluster have, less what was taken here.

    What other programs use of them is not known: a process waits until they have ended. What comes
    first leaves room for a worker of each operator that comes later.

    Args:
        nodes: the machines, with all that they have.
        grows: whether machines are added where processes wait for one; then nothing is refused.
        operators: how many will take room for workers; see ``take_for_workers``.
        worker: what each of these takes.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        grows: bool = False,
        operators: int = 0,
        worker: Need | None = None,
    ) -> None:
        self.grows = grows
        self._operators = operators  # that have no room yet
        self._worker = worker or Need()
        self.nodes = list(nodes)
        self._left = list(nodes)
        self._taken: list[str] = []

    @property
    def cpus_for_workers(self) -> float:
        """Processors of each machine that operators which come later need."""
        return self._worker.cpus * ceil(self._operators / max(1, len(self.nodes)))

    def take(self, what: str, need: Need, least: int, most: int | None) -> int:
        """Take room for processes, and return how many there are to be; ``what`` they are.

        They are ``most``, or with None as many as there is room for. Some of the ``most`` may have
        to wait for another machine, but not if they could take the room of others meanwhile.

        Raises PlacementError if there is no room for the least.
        """
        if most is None and not (need.gpus or need.cpus or any(need.resources.values())):
            raise PlacementError(
                f"{what} is to be as many as there is room for, and says of none what it takes",
                hint="give 'replicas' a number, or say what each takes, by 'cpus' or 'gpus'",
            )
        room = self._room(need, most)
        if room < least and not self.grows:
            raise self._error(what, need, least, room)
        if most is None:
            most = max(least, room)
        elif room < min(most, _places(self.nodes, need)) and not self.grows:
            most = room
        for _ in range(room):
            self._left = _without(self._left, need)
        self._taken.append(f"{room} x {need} by {what}")
        return most

    def take_for_workers(self, what: str, need: Need, most: int) -> int:
        """Take room for an operator's workers, and return how many it is to have; see ``take``."""
        self._operators = max(0, self._operators - 1)
        return self.take(what, need, 1, most)

    def _room(self, need: Need, most: int | None) -> int:
        """Return for how many processes there is room beside the workers that come later."""
        places = _places(self._left, need)
        wanted = places if most is None else min(most, places)
        left = self._left
        for room in range(wanted):
            left = _without(left, need)
            if _places(left, self._worker) < self._operators:
                return room
        return wanted

    def _error(self, what: str, need: Need, least: int, room: int) -> PlacementError:
        machines = "; ".join(f"{node.name}: {_has(node)}" for node in self.nodes) or "none"
        if not _places(self.nodes, need):
            problem = f"{what} needs {need} of one machine, and no machine of the cluster has that"
            hint = "ask for less, add a machine that has it, or say by 'grows': True that one comes"
            return PlacementError(f"{problem} (machines: {machines})", hint=hint)
        number = "one is" if least == 1 else f"{least} are"
        problem = f"{what} needs {need} for each process, of which {number} asked for, and the "
        problem += f"cluster has room for {room}"
        if self._operators:
            problem += f" beside {self._operators} x {self._worker} for workers"
        taken = "".join(f"; taken: {each}" for each in self._taken)
        hint = "ask for fewer or smaller ones, see 'services' and 'workers', or add machines"
        return PlacementError(f"{problem} (machines: {machines}{taken})", hint=hint)


def _places(nodes: Sequence[Node], need: Need) -> int:
    """Return for how many processes machines have room."""
    return sum(_places_of(node, need) for node in nodes)


def _places_of(node: Node, need: Need) -> int:
    wants = [(node.gpus, need.gpus), (node.cpus, need.cpus)]
    wants += [(node.resources.get(name, 0), amount) for name, amount in need.resources.items()]
    limits = [int(has / amount + 1e-6) for has, amount in wants if amount > 0]
    return min(limits, default=1_000_000)  # what takes nothing fits anywhere


def _without(nodes: Sequence[Node], need: Need) -> list[Node]:
    """Return what machines have less one process, on that which has room for most."""
    # They are spread so; what is tight comes first where nothing else fits.
    place = max(range(len(nodes)), key=lambda place: _places_of(nodes[place], need))
    node = nodes[place]
    left = {name: has - need.resources.get(name, 0) for name, has in node.resources.items()}
    less = replace(node, gpus=node.gpus - need.gpus, cpus=node.cpus - need.cpus, resources=left)
    return [*nodes[:place], less, *nodes[place + 1 :]]


def _has(node: Node) -> str:
    return str(Need(gpus=node.gpus, cpus=node.cpus, resources=node.resources))
