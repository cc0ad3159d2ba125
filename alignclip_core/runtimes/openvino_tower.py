"""OpenVINO runs the image tower on a CPU."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import openvino
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from alignclip_core.encoder import ImageEncoder
from alignclip_core.runtimes.towers import PixelTower, Precision, Runtime

DEVICE = "CPU"
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # as OpenVINO calls them

# OpenVINO gives the thread that it runs on a signal stack and frees it again: a signal that comes to that thread later
# ends the process. The main thread takes signals, so another one is OpenVINO's; which also runs one batch at a time.
_thread = ThreadPoolExecutor(1, thread_name_prefix="openvino")


class OpenVinoTower:
    """The tower as OpenVINO compiled it; nothing of the encoder is kept."""

    runtime: Runtime = "openvino"

    def __init__(self, encoder: ImageEncoder, precision: Precision = "fp32") -> None:
        self.precision = precision
        self.num_bytes = sum(value.nbytes for value in encoder.state_dict().values())  # kept in fp32, whatever computes
        self._compiled = _thread.submit(_compile, encoder, precision, torch.get_num_threads()).result()

    def __call__(self, pixels: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, fp32 on the CPU."""
        return _thread.submit(self._run, pixels).result()

    def _run(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self._compiled(pixels.numpy())[0].copy())


def computes_bf16() -> bool:
    """Whether this machine's CPU has instructions for bf16."""
    return "BF16" in _thread.submit(_capabilities).result()


def _capabilities() -> list[str]:
    return openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")  # type: ignore[no-any-return]


def _compile(encoder: ImageEncoder, precision: Precision, num_threads: int) -> openvino.CompiledModel:
    options = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, with all threads
    }
    return openvino.Core().compile_model(_convert(encoder), DEVICE, options)


def _convert(encoder: ImageEncoder) -> openvino.Model:
    size = encoder.preprocess.image_size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that tracing makes constant: all but the batch's are
        # Traced here, since convert_model would run the tower twice more to check the trace; parity.py does that.
        traced = torch.jit.trace(PixelTower(encoder), example, check_trace=False)
        return openvino.convert_model(traced, example_input=example, input=[-1, 3, size, size])
