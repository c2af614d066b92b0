"""What a container, a job or a service may use of the machine, from files as Linux has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.components.sage_vllm.host.usable_cores import processors_by_node, usable_cores

GB = 1 << 30
MEMINFO = "MemTotal:  8388608 kB\nMemFree:  1048576 kB\nMemAvailable:  6291456 kB\nHugePages: 0"
UNLIMITED_1 = str((1 << 63) - 4096)  # as version 1 says it


class System:
    """Writes files of `/proc` and `/sys` into a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", MEMINFO)
        self.write("proc/self/statm", "300000 262144 1000 1 0 250000 0\n")

    def write(self, file: str, text: object) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def group(self, group: str, **files: object) -> None:
        for name, text in files.items():
            self.write(f"sys/fs/cgroup/{group}/{name.replace('__', '.')}", text)

    def memory(self) -> tuple[int, int]:
        memory = host_memory(self.root)
        assert memory.is_share == (memory.total < 8 * GB)
        return memory.total, memory.available


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    for name in [each for each in os.environ if each.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return System(tmp_path)


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


def version_2(system: System, group: str) -> None:
    system.write("proc/self/cgroup", f"0::{group}")
    system.group("", cgroup__controllers="cpuset cpu io memory pids")


def version_1(system: System, group: str) -> None:
    system.write(
        "proc/self/cgroup",
        f"12:cpu,cpuacct:{group}\n11:cpuset:/\n4:memory:{group}\n1:name=systemd:{group}\n0::/",
    )


def test_a_machine_without_control_groups(system: System) -> None:
    assert system.memory() == (8 * GB, 6 * GB)
    system.write("proc/self/cgroup", "0::/")  # and one that has them and limits nothing
    assert system.memory() == (8 * GB, 6 * GB)


def test_memory_of_a_container_version_2(system: System) -> None:
    version_2(system, "/")
    system.group("", memory__max="max", memory__current=1000)
    assert system.memory() == (8 * GB, 6 * GB)
    system.group("", memory__max=4 * GB, memory__current=3 * GB)
    assert system.memory() == (4 * GB, GB)
    system.group("", memory__stat=f"anon 5\nactive_file {GB // 2}\ninactive_file {GB // 2}")
    assert system.memory() == (4 * GB, 2 * GB)
    system.group("", memory__high=3 * GB)  # where it is slowed down
    assert system.memory() == (3 * GB, GB)


def test_memory_of_a_container_version_1(system: System) -> None:
    # Docker shows the container's own group at the root, and the path that it has outside.
    version_1(system, "/docker/8d1f")
    system.group("memory", memory__limit_in_bytes=UNLIMITED_1, memory__usage_in_bytes=5 * GB)
    assert system.memory() == (8 * GB, 6 * GB)
    system.group("memory", memory__limit_in_bytes=4 * GB, memory__usage_in_bytes=4 * GB)
    assert system.memory() == (4 * GB, 0)
    system.group(
        "memory",
        memory__stat=f"cache 7\nactive_file 1\ntotal_active_file {GB}\ntotal_inactive_file {GB}",
    )
    assert system.memory() == (4 * GB, 2 * GB)


def test_a_group_is_held_to_the_limits_of_those_around_it(system: System) -> None:
    version_2(system, "/slurm/job_7/step_0/task_1")
    system.group("slurm/job_7/step_0/task_1", memory__max="max", memory__current=GB)
    system.group("slurm/job_7/step_0", memory__max=6 * GB, memory__current=2 * GB)
    system.group("slurm/job_7", memory__max=7 * GB, memory__current=6 * GB)
    assert system.memory() == (6 * GB, GB)  # that of the step, and what the job has left


def test_a_group_outside_of_what_can_be_seen(system: System) -> None:
    version_2(system, "/../../other")
    system.group("", memory__max=4 * GB, memory__current=GB)
    assert system.memory() == (4 * GB, 3 * GB)


def test_more_used_than_allowed_is_nothing_free(system: System) -> None:
    version_2(system, "/")
    system.group("", memory__max=2 * GB, memory__current=3 * GB)
    assert system.memory() == (2 * GB, 0)


def test_the_memory_of_a_slurm_job(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = 262144 * os.sysconf("SC_PAGE_SIZE")  # of this process: the job's other ones are not
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "4096")
    assert system.memory() == (4 * GB, 4 * GB - resident)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all that the node has
    assert system.memory() == (8 * GB, 6 * GB)
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1024")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    assert system.memory() == (3 * GB, 3 * GB - resident)


@pytest.mark.usefixtures("sixteen_cores")
def test_cores_without_a_quota_are_those_to_run_on(system: System) -> None:
    assert usable_cores(system.root) == 16
    version_2(system, "/")
    system.group("", cpu__max="max 100000")
    assert usable_cores(system.root) == 16
    version_1(system, "/")
    system.group("cpu,cpuacct", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert usable_cores(system.root) == 16


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("quota", "cores"), [(400_000, 4), (150_000, 1), (50_000, 1), (6_400_000, 16)]
)
def test_a_quota_pays_for_whole_cores(system: System, quota: int, cores: int) -> None:
    version_2(system, "/kubepods/pod1/container")
    system.group("kubepods/pod1/container", cpu__max="max 100000")
    system.group("kubepods/pod1", cpu__max=f"{quota} 100000")
    assert usable_cores(system.root) == cores
    version_1(system, "/kubepods/pod1")
    files = {"cpu__cfs_quota_us": quota, "cpu__cfs_period_us": 100_000}
    system.group("cpu,cpuacct/kubepods/pod1", **files)
    assert usable_cores(system.root) == cores


@pytest.mark.usefixtures("sixteen_cores")
def test_the_cores_of_a_slurm_task(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert usable_cores(system.root) == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert usable_cores(system.root) == 2
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")  # more than it may run on
    assert usable_cores(system.root) == 16


def test_this_machine() -> None:
    machine = host_memory()
    assert 0 < machine.available <= machine.total
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("sixteen_cores")
def test_processors_lie_together_in_nodes(system: System) -> None:
    assert processors_by_node(system.root) == [list(range(16))]
    for node, listed in ((0, "0-3,8-11"), (1, "4-7,12-15"), (2, ""), (10, "64-127")):
        folder = system.root / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(listed + "\n")
    halves = [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    assert processors_by_node(system.root) == halves
    version_2(system, "/")
    system.group("", cpu__max="300000 100000")  # three of them, and one of each node
    assert processors_by_node(system.root) == [[0, 1], [4]]
