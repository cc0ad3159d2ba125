"""GPU memory by NVML. There is no GPU here, so the library itself, which is not ours, is played by an object."""

from types import SimpleNamespace

import pytest

from worker.gpus import GpuMemory, memory_not_returned, read_gpus

MIB = 2**20


class Library:
    """NVML of a machine with these devices: (name, used bytes, total bytes)."""

    class NVMLError(Exception):
        pass

    def __init__(self, *devices: tuple[str, int, int], fails_at: str = "") -> None:
        self.devices = devices
        self.fails_at = fails_at
        self.num_open = 0

    def nvmlInit(self) -> None:
        self._fail("init")
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[str, int, int]:
        return self.devices[index]

    def nvmlDeviceGetName(self, handle: tuple[str, int, int]) -> str:
        return handle[0]

    def nvmlDeviceGetMemoryInfo(self, handle: tuple[str, int, int]) -> SimpleNamespace:
        self._fail("memory")
        return SimpleNamespace(used=handle[1], total=handle[2])

    def _fail(self, where: str) -> None:
        if where == self.fails_at:
            raise self.NVMLError(where)


def gpu(index: int, used_bytes: int) -> GpuMemory:
    return GpuMemory(index=index, name="a", used_bytes=used_bytes, total_bytes=2**34)


def test_every_device_is_read_and_the_library_is_closed():
    library = Library(("NVIDIA A", 5, 10), ("NVIDIA B", 0, 20))
    assert [found.to_json() for found in read_gpus(library)] == [
        {"index": 0, "name": "NVIDIA A", "used_bytes": 5, "total_bytes": 10},
        {"index": 1, "name": "NVIDIA B", "used_bytes": 0, "total_bytes": 20},
    ]
    assert library.num_open == 0


@pytest.mark.parametrize("fails_at", ["init", "memory"])
def test_a_library_that_does_not_answer_is_no_gpu(fails_at):
    library = Library(("NVIDIA A", 5, 10), fails_at=fails_at)
    assert read_gpus(library) == []
    assert library.num_open == 0


def test_the_real_library_answers_here_with_what_the_machine_has():
    assert all(0 <= found.used_bytes <= found.total_bytes for found in read_gpus())


def test_memory_that_comes_back_a_little_later_is_back():
    answers = iter([[gpu(0, 900 * MIB)], [gpu(0, 100 * MIB)]])
    assert memory_not_returned([gpu(0, 90 * MIB)], lambda: next(answers)) == {}


def test_memory_that_stays_away_is_told_by_device():
    before = [gpu(0, 90 * MIB), gpu(1, 0)]
    now = [gpu(0, 90 * MIB), gpu(1, 500 * MIB)]
    assert memory_not_returned(before, lambda: now, seconds=0.0) == {1: 500 * MIB}
    assert memory_not_returned([], lambda: [], seconds=0.0) == {}
