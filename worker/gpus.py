"""Memory of this machine's GPUs by NVIDIA's management library; nothing where there is no GPU or no driver.

Devices are numbered as the library does, by bus; CUDA counts the same way only under CUDA_DEVICE_ORDER=PCI_BUS_ID.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pynvml

FREE_SECONDS = 10.0  # for the driver to take back what a dead process held
TOLERATED_BYTES = 64 * 2**20  # that other processes, a monitor for example, may take meanwhile
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """One device."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_gpus(nvml: Any = pynvml) -> list[GpuMemory]:
    """All devices that the driver shows to this process."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no library, no driver, no device
        return []
    try:
        return [_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:  # one that has no memory of its own, or was lost
        return []
    finally:
        nvml.nvmlShutdown()


def memory_not_returned(
    before: Sequence[GpuMemory], read: Callable[[], Sequence[GpuMemory]] = read_gpus, seconds: float = FREE_SECONDS
) -> dict[int, int]:
    """Bytes by device that are used beyond what was used before, after a wait for the driver; {}: all is back.

    Other processes on a device count, too: the library sees no difference inside a container.
    """
    deadline = time.monotonic() + seconds
    while True:
        now = {gpu.index: gpu.used_bytes for gpu in read()}
        more = {gpu.index: now.get(gpu.index, 0) - gpu.used_bytes for gpu in before}
        left = {index: num_bytes for index, num_bytes in more.items() if num_bytes > TOLERATED_BYTES}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(PAUSE_SECONDS)


def _read(nvml: Any, index: int) -> GpuMemory:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuMemory(
        index=index, name=str(nvml.nvmlDeviceGetName(handle)), used_bytes=memory.used, total_bytes=memory.total
    )
