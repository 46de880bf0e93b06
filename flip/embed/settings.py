"""Settings of embedding photos. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, fields

from flip.errors import ConfigError, near_names
from flip.names import DECODINGS, DEVICES, ENGINES, PRECISIONS
from flip.settings import at_least, flag, option


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """The part of each photo that the network sees."""

    crop: str = option(
        "none", "boxes: cut each photo to its bounding box before it is embedded.", choices=("none", "boxes")
    )
    tta: str = option(
        "none", "flip: embed each photo as the mean of itself and its mirror image.", choices=("none", "flip")
    )


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(ViewSettings):
    """Device, precision and batches of embedding, and the part of each photo that the network sees."""

    device: str = option("auto", "Where the network runs.", choices=DEVICES)
    precision: str = option(
        "auto",
        "Number format of the image network; auto takes bf16 where the CPU or GPU has it and it is faster.",
        choices=PRECISIONS,
    )
    decode: str = option(
        "auto",
        "How JPEG photos are decoded: fast reads those much larger than what the network sees at a smaller scale; auto "
        "is exact with fp32 and fast otherwise.",
        choices=DECODINGS,
    )
    batch_size: int = option(32, "Photos that go through the network together.")
    workers: int | None = option(None, "Threads that decode photos. [default: one per CPU core]")

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
        if self.workers is not None:
            at_least("--workers", self.workers, 1)
        for known in fields(EmbedSettings):
            choices, value = known.metadata.get("choices", ()), getattr(self, known.name)
            if choices and value not in choices:
                near = near_names(str(value), choices)
                raise ConfigError(f"{flag(known.name)} {value!r} is unknown{near}; pass {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The engine that runs the network: this process, or workers of Ray."""

    engine: str = option(
        "local",
        "local: this process; ray: workers of Ray, here or on a cluster, which hold a model each.",
        choices=ENGINES,
    )
    ray_address: str | None = option(
        None, "A Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: workers on this machine]"
    )
    actors: int | None = option(
        None, "Workers of --engine ray that hold a model. [default: one per GPU, else one per two CPU cores]"
    )

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"--engine {self.engine!r} is unknown; pass {' or '.join(ENGINES)}")
        if self.engine != "ray":
            for name in ("ray_address", "actors"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{flag(name)} belongs to --engine ray; pass it too")
        if self.actors is not None:
            at_least("--actors", self.actors, 1)


DEFAULTS = EmbedSettings()
