"""Placement: how many processes a cluster has room for, before any is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sage.kernel.runtime.cluster.cluster import Need, Node
from sage.kernel.runtime.cluster.errors import PlacementError


class Placement:
    """What the machines of a cluster have, less what was taken here.

    What other programs use of them is not known: a process waits until they have ended.

    Args:
        nodes: the machines, with all that they have.
        grows: whether machines are added where processes wait for one; then nothing is refused.
        operators: how many will take room for workers; see ``take_for_workers``.
    """

    def __init__(self, nodes: Sequence[Node], *, grows: bool = False, operators: int = 0) -> None:
        self.grows = grows
        self._operators = operators
        self._several = operators > 1
        self._all = list(nodes)
        self._left = list(nodes)

    def places(self, need: Need) -> int:
        """Return for how many processes there is room."""
        return sum(_places(node, need) for node in self._left)

    def take(self, what: str, need: Need, least: int, most: int) -> None:
        """Take room for ``most`` processes, or for as many as there is; ``what`` they are.

        Raises PlacementError if that is not the least.
        """
        places = self.places(need)
        if places < least and not self.grows:
            raise self._error(what, need, least, places)
        for _ in range(min(most, places)):
            # Where most are, as they are spread; what is tight comes first where nothing else fits.
            best = max(self._left, key=lambda node: _places(node, need))
            self._left[self._left.index(best)] = _without(best, need)

    def take_for_workers(self, what: str, need: Need, most: int) -> int:
        """Take room for an operator's workers, and return how many it is to have.

        They are as many as it wants where it is alone, for which others may make room. Else they
        are those that there is room for, and each of the operators after it is left room for one.
        """
        self._operators = max(0, self._operators - 1)
        places = self.places(need)
        if self._several and not self.grows:
            most = max(1, min(most, places - self._operators))
        self.take(what, need, 1, most)
        return most

    def _error(self, what: str, need: Need, least: int, places: int) -> PlacementError:
        machines = "; ".join(f"{node.name}: {_has(node)}" for node in self._all) or "none"
        if not any(_places(node, need) for node in self._all):
            problem = f"{what} needs {need} of one machine, and no machine of the cluster has that"
            hint = "ask for less, add a machine that has it, or say by 'grows': True that one comes"
        else:
            number = "one is" if least == 1 else f"{least} are"
            problem = f"{what} needs {need} for each process, of which {number} asked for, and the "
            problem += f"cluster has room for {places}"
            hint = "ask for fewer or smaller ones, or add machines"
        return PlacementError(f"{problem} (machines: {machines})", hint=hint)


def _places(node: Node, need: Need) -> int:
    wants = [(node.gpus, need.gpus), (node.cpus, need.cpus)]
    wants += [(node.resources.get(name, 0), amount) for name, amount in need.resources.items()]
    limits = [int(has / amount + 1e-6) for has, amount in wants if amount > 0]
    return min(limits, default=1_000_000)  # what takes nothing fits anywhere


def _without(node: Node, need: Need) -> Node:
    left = {name: has - need.resources.get(name, 0) for name, has in node.resources.items()}
    return replace(node, gpus=node.gpus - need.gpus, cpus=node.cpus - need.cpus, resources=left)


def _has(node: Node) -> str:
    return str(Need(gpus=node.gpus, cpus=node.cpus, resources=node.resources))
