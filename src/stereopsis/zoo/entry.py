"""One row of the registry of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal

from torch import nn

Family = Literal["matching", "upsampling", "compression"]


@dataclass(frozen=True)
class ModelEntry:
    """One row of the registry.

    Attributes:
        name: ``arch`` or ``arch.tag``, e.g. ``hitnet.scenes``.
        family: which of the three interfaces the model has.
        architecture: what a weights file must state to fit, e.g. ``hitnet``; entries may share it.
        build: returns the untrained module.
        description: one line for ``stereopsis models``.
        config: the frozen dataclass ``build`` uses, compared with the one in a weights file.
        licence: of the weights (SPDX identifier or a few words), empty where there are none.
        weights_file: file name of the shipped weights inside ``zoo/files``.
        official: the weights are published by others and are imported by the user, never shipped.
        needs_weights: False for classical methods, which have no parameters.
    """

    name: str
    family: Family
    architecture: str
    build: Callable[[], nn.Module]
    description: str
    config: Any = None
    licence: str = ""
    weights_file: str | None = None
    official: bool = False
    needs_weights: bool = True

    def config_dict(self) -> dict[str, Any]:
        """The configuration as plain values, empty where the entry states none."""
        if self.config is None:
            return {}
        if is_dataclass(self.config) and not isinstance(self.config, type):
            return asdict(self.config)
        return dict(self.config)
