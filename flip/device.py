"""The one place that asks Accelerate for device, precision and process split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flip.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState


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
