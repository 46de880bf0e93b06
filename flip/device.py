"""The one place that asks Accelerate for device, precision and process split."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flip.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator, PartialState

Value = TypeVar("Value")


@dataclass(frozen=True)
class Placement:
    """Where a network runs and which share of the work this process has.

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
        """Return when every process has come here."""
        self.state.wait_for_everyone()


def place(device: str = "auto") -> Placement:
    """Ask Accelerate for a device.

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


def training_accelerator(device: str = "auto", precision: str = "fp32") -> Accelerator:
    """Return what prepares a network for training on this device and among these processes.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"fp32", "bf16"}
        bf16 means autocast over fp32 weights.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    place(device)
    # Accelerate remembers the precision of the first training of a process, and refuses another.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        # BatchNorm's statistics do not change while a network is fine-tuned.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def parameters_without_memory() -> AbstractContextManager[Any]:
    """Return a context in which networks get no parameters yet, only their shapes; buffers are made for real."""
    from accelerate import init_empty_weights

    manager: AbstractContextManager[Any] = init_empty_weights(include_buffers=False)
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

    Each step of training on a processor frees and takes the same activations. By default glibc gives them back to the
    system, which must then clear every page anew: 10 to 20 % of the time of a step.
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


def processor_name(device: torch.device) -> str:
    """Return a name under which a measurement on this device can be remembered."""
    import platform

    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
