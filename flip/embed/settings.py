"""Settings of embedding photos. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, fields

from flip.errors import ConfigError, near_names
from flip.names import DECODINGS, DEVICES, PRECISIONS
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


DEFAULTS = EmbedSettings()
