"""StimulusSet: images, ids, labels; split by stimulus."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids, match_ids
from neurordl.io import sha256_array
from neurordl.stimuli.preprocessing import Preprocessing, array_pixels, image_paths, read_images
from neurordl.stimuli.splitting import draw_folds, draw_fraction
from neurordl.stimuli.tables import labels_of, read_table, table_of

__all__ = ["StimulusSet"]

StrPath = str | os.PathLike[str]
_SMALLEST_PART = 3  # two stimuli make one pair, and no comparison can be made of one pair


@dataclass(frozen=True, eq=False, repr=False)
class StimulusSet:
    """Images with ids, in a given order. Built by `from_folder`, `from_table` or `from_array`.

    Attributes
    ----------
    ids
        Unique, in the given order.
    pixels
        (n, channels, height, width), uint8, or float32 from a float array. Not to be written to.
    preprocessing
        What was done to the images when they were read (size, channels) and is done by `images` (mean, std).
    labels
        (n,) int64, or None.
    table
        What else is known of each stimulus (categories, names): indexed by id, in the order of ``ids``.
    source
        Where the images came from, for the record.
    held_out_ids
        On the training part of a split: the ids held out from it, also by earlier splits.
    classes
        Where labels were text, the names: label k is ``classes[k]``. Give them to another set, such as the
        test set, so that its labels have the same numbers.
    """

    ids: tuple[str, ...]
    pixels: Tensor
    preprocessing: Preprocessing
    labels: Tensor | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    source: str | None = None
    held_out_ids: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", check_ids(self.ids, "stimuli"))
        table = self.table if len(self.table.columns) else pd.DataFrame(index=list(self.ids))
        if tuple(table.index) != self.ids:
            raise NeurordlError("the table of the stimuli must be indexed by their ids, in their order")
        object.__setattr__(self, "table", table.rename_axis("id"))
        for name, values in (("images", self.pixels), ("labels", self.labels)):
            if values is not None and len(values) != len(self.ids):
                raise NeurordlError(
                    f"{len(self.ids)} ids but {len(values)} {name}: give one of each per stimulus"
                )

    @classmethod
    def from_folder(
        cls,
        folder: StrPath,
        size: int | Sequence[int] | None = None,
        channels: int = 3,
        mean: Sequence[float] | Literal["imagenet"] | None = None,
        std: Sequence[float] | Literal["imagenet"] | None = None,
        labels: StrPath | pd.DataFrame | None = None,
        classes: Sequence[str] | None = None,
    ) -> StimulusSet:
        """Read the images of a folder (not of its subfolders), in natural order: s2 before s10.

        Parameters
        ----------
        folder
            PNG, JPEG, WebP, BMP or TIFF files, grey or RGB, 8 bits; ids are the file names without suffix.
        size
            Height and width in pixels to which the images are resized (antialiased, bilinear); one number for
            a square. Images of different sizes need it.
        channels
            Number of channels: 1 (grey) or 3 (RGB).
        mean
            Number that is subtracted from each channel, on the scale where 0 is black and 1 is white;
            "imagenet" stands for the numbers of networks that were trained on ImageNet.
        std
            Number by which each channel is divided after that, or "imagenet".
        labels
            CSV, TSV or DataFrame with a column ``id`` (in a DataFrame it may be the index). Its ``label``, if
            there, gives the labels: whole numbers, or text (numbered as ``classes`` are, else in natural
            order of the names). All
            columns go into the table; rows without an image are left out, images without a row are an error.
        """
        paths = image_paths(Path(folder))
        ids = tuple(path.stem for path in paths)
        table = table_of(labels, ids)
        prepared = Preprocessing(cast(Any, size), channels, cast(Any, mean), cast(Any, std))
        pixels, prepared = read_images(paths, prepared)
        numbers, names = labels_of(table, classes=classes)
        return cls(ids, pixels, prepared, numbers, table, str(folder), classes=names)

    @classmethod
    def from_table(
        cls,
        table: StrPath | pd.DataFrame,
        id: str = "id",
        path: str = "path",
        label: str | None = None,
        size: int | Sequence[int] | None = None,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        folder: StrPath | None = None,
        classes: Sequence[str] | None = None,
    ) -> StimulusSet:
        """Read the images that a CSV, TSV or DataFrame lists, in its order.

        Parameters
        ----------
        table
            One row per stimulus; its other columns are kept as the set's table.
        id, path, label
            Names of its columns; ``label=None`` takes a column ``label`` where there is one.
        classes
            Names of text labels in the order of their numbers; by default those there are, in natural order.
        size, channels, mean, std
            See `Preprocessing`.
        folder
            What paths are relative to; by default the table's own folder (for a DataFrame, the current one).
        """
        frame = read_table(table, id, path, *([label] if label else []))
        source = None if isinstance(table, pd.DataFrame) else str(table)
        root = Path(folder) if folder is not None else Path(source).parent if source else Path()
        for name, value in frame[path].items():
            if not isinstance(value, str | os.PathLike) or not str(value):
                raise NeurordlError(
                    f"stimulus {name!r} has no image path: its {path!r} is {value!r}; fill it in"
                )
        prepared = Preprocessing(cast(Any, size), channels, cast(Any, mean), cast(Any, std))
        pixels, prepared = read_images([root / value for value in frame[path]], prepared)
        rest = frame.drop(columns=path)
        numbers, names = labels_of(rest, label or "label", classes)
        return cls(tuple(frame.index), pixels, prepared, numbers, rest, source, classes=names)

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike | Tensor,
        ids: Iterable[str],
        labels: npt.ArrayLike | Tensor | None = None,
        table: StrPath | pd.DataFrame | None = None,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        source: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> StimulusSet:
        """Take images from an array (copied).

        Parameters
        ----------
        array
            (n, H, W), (n, H, W, C) or (n, C, H, W) with C of 1 or 3; whole numbers from 0 to 255, or floats,
            which are kept as they are.
        ids, labels
            In the order of the array. Labels are whole numbers or text, kept as the table's column ``label``.
        classes
            Names of text labels in the order of their numbers; by default those there are, in natural order.
        table
            As ``labels`` of `from_folder`: matched by id.
        size, channels, mean, std
            See `Preprocessing`; ``channels=None`` keeps those of the array, 3 repeats a grey one.
        source
            Where the images came from, for the record.
        """
        names = check_ids(ids, "stimuli")
        pixels, prepared = array_pixels(array, size, channels)
        prepared = replace(prepared, mean=cast(Any, mean), std=cast(Any, std))
        frame = table_of(table, names)
        if labels is not None:
            given = labels.tolist() if isinstance(labels, Tensor) else np.asarray(labels).tolist()
            if len(given) != len(names):
                raise NeurordlError(f"{len(names)} ids but {len(given)} labels: give one label per stimulus")
            frame = frame.assign(label=given)
        numbers, known = labels_of(frame, classes=classes)
        return cls(names, pixels, prepared, numbers, frame, source, classes=known)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.pixels.shape[1:]))
        labels = "no labels" if self.labels is None else f"{len(set(self.labels.tolist()))} classes"
        return f"StimulusSet({len(self)} stimuli, {shape}, {labels}, source={self.source!r})"

    @cached_property
    def sha256(self) -> str:
        """Checksum of ids, pixels and labels, in their order."""
        labels = None if self.labels is None else sha256_array(self.labels)
        return hashlib.sha256(json.dumps([self.ids, sha256_array(self.pixels), labels]).encode()).hexdigest()

    def images(self, index: Sequence[int] | npt.NDArray[Any] | Tensor | slice | None = None) -> Tensor:
        """Images as a network takes them: (n, channels, height, width), float32, (pixels / 255 - mean) / std.

        ``index`` picks positions (or is a mask); None takes all. Float arrays are not divided by 255.
        """
        if index is not None and not isinstance(index, slice):
            index = torch.as_tensor(index, dtype=None if len(index) else torch.long)
        images = (self.pixels if index is None else self.pixels[index]).to(torch.float32, copy=True)
        if self.pixels.dtype == torch.uint8:
            images.div_(255)
        if self.preprocessing.mean is not None:
            images.sub_(torch.tensor(self.preprocessing.mean).view(-1, 1, 1))
        if self.preprocessing.std is not None:
            images.div_(torch.tensor(self.preprocessing.std).view(-1, 1, 1))
        return images

    def subset(self, ids: Iterable[str]) -> StimulusSet:
        """The stimuli of ``ids``, in the order asked for; an id that is not in the set is an error."""
        return self._take(match_ids(ids, self.ids, names=("ids asked for", "stimuli")).index)

    def split(
        self, held_out: float | Iterable[str] = 0.25, seed: int = 0, stratify: str | None = None
    ) -> tuple[StimulusSet, StimulusSet]:
        """Split by stimulus, into a training part and a held-out part; both keep the order of the set.

        Parameters
        ----------
        held_out
            The fraction to hold out, or the ids.
        seed
            The draw depends on the ids and on this alone, not on the order of the set.
        stratify
            A column of the table, or "label": of each category this fraction is held out, to within one.

        Raises
        ------
        NeurordlError
            Fewer than 3 stimuli in a part, an unknown id or column, a fraction not between 0 and 1.
        """
        if not isinstance(held_out, float | int):
            return self._parts(match_ids(held_out, self.ids, names=("held-out ids", "stimuli")).index)
        return self._parts(draw_fraction(self.ids, held_out, seed, self._strata(stratify)))

    def folds(
        self, n: int, seed: int = 0, stratify: str | None = None
    ) -> list[tuple[StimulusSet, StimulusSet]]:
        """Cut into ``n`` folds: pairs as of `split`, in which each stimulus is held out once."""
        drawn = draw_folds(self.ids, n, seed, self._strata(stratify))
        return [self._parts(positions) for positions in drawn]

    def _strata(self, stratify: str | None) -> list[str] | None:
        if stratify is None:
            return None
        if stratify == "label" and self.labels is not None:
            return [str(label) for label in self.labels.tolist()]
        if stratify not in self.table.columns:
            known = ", ".join(map(str, self.table.columns)) or "none"
            raise NeurordlError(f"cannot stratify by {stratify!r}: the columns of the stimuli are {known}")
        column = self.table[stratify]
        if column.isna().any():
            raise NeurordlError(
                f"stimulus {self.ids[int(column.isna().argmax())]!r} has no {stratify!r}; fill it in"
            )
        return [str(value) for value in column]

    def _parts(self, held_out: npt.NDArray[np.int64]) -> tuple[StimulusSet, StimulusSet]:
        chosen = np.zeros(len(self), dtype=bool)
        chosen[held_out] = True
        sizes = len(self) - len(held_out), len(held_out)
        if min(sizes) < _SMALLEST_PART:
            raise NeurordlError(
                f"{len(self)} stimuli cannot be split into {sizes[0]} for training and {sizes[1]} held out: "
                f"each part needs at least {_SMALLEST_PART}; use more stimuli or another fraction"
            )
        away = tuple(self.ids[i] for i in np.flatnonzero(chosen))
        train = replace(self._take(np.flatnonzero(~chosen)), held_out_ids=(*self.held_out_ids, *away))
        return train, replace(self._take(np.flatnonzero(chosen)), held_out_ids=())

    def _take(self, index: npt.NDArray[np.int64]) -> StimulusSet:
        rows = torch.tensor(index)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            pixels=self.pixels[rows],
            labels=None if self.labels is None else self.labels[rows],
            table=self.table.iloc[index],
        )
