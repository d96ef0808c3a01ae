"""Where scenes come from: what a source is, and how a loader reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor
from torch.utils.data import Dataset

from accord.errors import ShapeError


class SceneSource(Protocol):
    """The scenes of one split; ``accord.bench.scenes.problem`` says what an item holds."""

    def __len__(self) -> int:
        """How many scenes."""
        ...

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One scene."""
        ...


class Scenes(Dataset[dict[str, Tensor]]):
    """A source as torch's loader wants it: only the maps needed, checked, and augmented.

    Args:
        source: The scenes.
        keep: The keys that are needed.
        size: Height and width that every scene must have.
        name: For messages.
        change: Applied to each scene.
    """

    def __init__(
        self,
        source: SceneSource,
        keep: Sequence[str],
        size: tuple[int, int],
        name: str,
        change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        self.source, self.keep, self.size, self.name, self.change = source, tuple(keep), tuple(size), name, change

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        scene = self.source[index]
        for key in self.keep:
            if key not in scene or tuple(scene[key].shape) != (*_CHANNELS[key], *self.size):
                seen = tuple(scene[key].shape) if key in scene else "absent"
                raise ShapeError(
                    f"{self.name}: {key} of scene {index} is {seen}; the settings want {(*_CHANNELS[key], *self.size)}"
                )
        kept = {key: scene[key] for key in self.keep}
        return self.change(kept) if self.change else kept


_CHANNELS: dict[str, tuple[int, ...]] = {"image": (3,), "label": (), "depth": (1,), "normal": (3,)}


class Held:
    """A source that keeps in memory what it has read."""

    def __init__(self, source: SceneSource) -> None:
        self.scenes = [source[index] for index in range(len(source))]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.scenes[index]
