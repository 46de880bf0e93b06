"""The one place that asks Accelerate for device, precision and process split."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from flip.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator, PartialState

Value = TypeVar("Value")


@dataclass(frozen=True)
class Placement:
    """A device, and this process's share of the work.

    Attributes
    ----------
    device : torch.device
    process_index, process_count : int
        This process among those that ``accelerate launch`` started; (0, 1) without it.
    """

    device: torch.device
    process_index: int
    process_count: int
    state: PartialState

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes results."""
        return self.process_index == 0

    def share(self, items: int) -> range:
        """Return the indices among ``items`` that are this process's."""
        return range(self.process_index, items, self.process_count)

    def wait_for_everyone(self) -> None:
        """Block until every process has come here."""
        self.state.wait_for_everyone()


def resolve_device(device: str = "auto") -> Placement:
    """Return the device that ``--device`` means here, and this process's share, as Accelerate says.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}

    Raises
    ------
    ConfigError
        If the device asked for is not on this machine.
    """
    import torch
    from accelerate import PartialState

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device, True):
        have = ", ".join(["cpu", *(name for name, there in available.items() if there)])
        raise ConfigError(f"--device {device} is not on this machine; it has {have}; pass one of them or auto")
    # Accelerate remembers its first state for the whole process, and refuses another device later.
    if PartialState._shared_state and (device == "cpu") != (PartialState().device.type == "cpu") and device != "auto":
        PartialState._reset_state()
    state = PartialState(cpu=device == "cpu")
    return Placement(state.device, state.process_index, state.num_processes, state)


def resolve_precision(
    precision: str,
    placement: Placement,
    use: Literal["embed", "draw", "train-clip", "train-diffusion"] = "embed",
    *,
    convolutional: bool = False,
    measure: Callable[[], str] | None = None,
) -> str:
    """Return the number format that ``--precision`` means here: "fp32", "bf16" or "fp16".

    ``auto`` is bf16 where the device has it in hardware, but on a CPU

    - embedding takes what ``measure`` finds faster, and fp32 without it;
    - drawing and training a diffusion model take fp32;
    - training CLIP takes fp32 for a convolutional image tower, which has no depthwise kernels for bf16. It times
      nothing, so that a resumed run takes what it took before.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16", "fp16"}
    placement : Placement
    use : {"embed", "draw", "train-clip", "train-diffusion"}
    convolutional : bool
        Whether the image tower that is trained is convolutional.
    measure : callable, optional
        Returns "fp32" or "bf16", whichever is faster on this CPU; asked only where the CPU has bf16 in hardware.

    Raises
    ------
    ConfigError
        For fp16 on a CPU, and for fp16 in training.
    """
    if precision == "fp16":
        _require_fp16(placement, use)
    return _fastest_precision(placement, use, convolutional, measure) if precision == "auto" else precision


def _fastest_precision(placement: Placement, use: str, convolutional: bool, measure: Callable[[], str] | None) -> str:
    if not bf16_in_hardware(placement.device):
        return "fp32"
    if placement.device.type != "cpu":
        return "bf16"
    if use == "embed":
        return measure() if measure else "fp32"
    return "bf16" if use == "train-clip" and not convolutional else "fp32"


def _require_fp16(placement: Placement, use: str) -> None:
    if use == "train-clip":
        raise ConfigError("--precision fp16 loses gradients that are too small for it; pass bf16, fp32 or auto")
    if use == "train-diffusion":
        raise ConfigError("--precision fp16 overflows in training; pass bf16, fp32 or auto")
    if placement.device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU; on a CPU pass bf16, fp32 or auto")


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


#: Environment variables in which launchers (``accelerate launch``, torchrun, MPI) say how many processes there are.
_PROCESS_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def has_siblings() -> bool:
    """Return whether a launcher started this process together with others; imports nothing."""
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in _PROCESS_COUNTS)


def training_accelerator(device: str = "auto", precision: str = "fp32") -> Accelerator:
    """Return an Accelerator that prepares a network for training on this device and among these processes.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"fp32", "bf16"}
        bf16 means autocast over fp32 weights.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    resolve_device(device)
    # Accelerate remembers the precision of the first training of a process, and refuses another.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        # BatchNorm's statistics do not change while a network is fine-tuned.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def parameters_without_memory() -> AbstractContextManager[object]:
    """Return a context in which networks get no parameters yet, only their shapes; buffers are made for real."""
    from accelerate import init_empty_weights

    manager: AbstractContextManager[object] = init_empty_weights(include_buffers=False)
    return manager


def agree(accelerator: Accelerator, value: Value) -> Value:
    """Return the first process's value in every process, so that all decide alike; a bool is true if any is."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list, gather_object

    if isinstance(value, bool):
        return any(gather_object([value]))  # type: ignore[return-value]
    values = [value]
    broadcast_object_list(values)
    return values[0]


def keep_freed_memory() -> None:
    """Let this process keep large blocks of memory that it frees, where the C library is glibc.

    Each training step on a CPU frees and takes the same activations. By default glibc gives them back to the system,
    which must then clear every page again: 10 to 20 % of the time of a step.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def bf16_in_hardware(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware; elsewhere bf16 is emulated and slow."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def has_matrix_unit() -> bool:
    """Return whether the CPU has a unit for bf16 matrices (AMX), rather than vector instructions alone."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


def processor_name(device: torch.device) -> str:
    """Return a name under which a measurement on this device can be remembered."""
    import platform

    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Part of a file name in the cache; earlier caches are read by it.
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
