"""StimulusSet: images with ids and labels, split by stimulus."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from neurordl.arrays import Ints
from neurordl.errors import NeurordlError, notify
from neurordl.ids import check_ids, id_column, is_missing, match_ids, natural_key, similar_ids, warn_of_names
from neurordl.io import read_frame, sha256_array, sha256_json
from neurordl.stimuli.fingerprints import Bytes, fingerprints
from neurordl.stimuli.preprocessing import Preprocessing, array_pixels, image_paths, read_images
from neurordl.validate import (
    check_columns,
    check_count,
    check_number,
    check_path,
    check_type,
    counted,
    folded_html,
    listed,
)

StrPath: TypeAlias = str | os.PathLike[str]
Statistics: TypeAlias = Sequence[float] | Literal["imagenet"] | None
_SMALLEST_PART = 3  # two stimuli make one pair, and no comparison can be made of one pair


class _Preprocessing(TypedDict, total=False):
    size: int | Sequence[int] | None
    channels: int | None
    mean: Statistics
    std: Statistics
    crop: float | None


@dataclass(frozen=True, eq=False, repr=False)
class StimulusSet:
    """Images with ids in a fixed order, made by `from_folder`, `from_table` or `from_array`.

    Attributes
    ----------
    ids
        Unique ids.
    pixels
        (n, channels, height, width), uint8, or float32 from a float array. Do not write to them.
    preprocessing
        Size and channels with which the images were read, and the mean and std by which `images` normalizes
        them.
    labels
        (n,) int64, or None.
    table
        Further columns of each stimulus, such as categories, indexed by id in the order of ``ids``.
    source
        Where the images came from, for the record.
    held_out_ids
        For the training part of a split, the ids that were held out, also by earlier splits.
    classes
        Names of the classes if labels were text: label k is ``classes[k]``. Pass them to another set, such as
        the test set, so that its labels have the same numbers.
    known_ids
        For a part, the ids of the set that it was taken from, all of which have an image.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> digits.ids[:2], digits.images([0, 1]).shape
    (('digits-0000', 'digits-0001'), torch.Size([2, 1, 8, 8]))
    >>> train, held_out = digits.split(held_out=0.25, seed=0)
    >>> len(train), len(held_out)
    (1348, 449)
    """

    ids: tuple[str, ...]
    pixels: Tensor
    preprocessing: Preprocessing
    labels: Tensor | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    source: str | None = None
    held_out_ids: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    known_ids: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", check_ids(self.ids, "stimuli"))
        object.__setattr__(self, "known_ids", self.known_ids or self.ids)
        table = self.table if len(self.table.columns) else pd.DataFrame(index=list(self.ids))
        if tuple(table.index) != self.ids:
            raise NeurordlError("the table of the stimuli must be indexed by their ids, in their order")
        object.__setattr__(self, "table", table.rename_axis("id"))
        for name, values in (("images", self.pixels), ("labels", self.labels)):
            if values is not None and len(values) != len(self.ids):
                raise NeurordlError(f"{len(self.ids)} ids but {len(values)} {name}: give one per stimulus")
        if self.pixels.dtype == torch.uint8 and max(self.preprocessing.mean or (0.0,)) > 1:
            notify(
                f"mean={self.preprocessing.mean} is above 1, but images go from 0 (black) to 1 (white): "
                "divide mean and std by 255 if they are on a scale from 0 to 255"
            )

    @classmethod
    def from_folder(
        cls,
        folder: StrPath,
        size: int | Sequence[int] | None = None,
        channels: int = 3,
        mean: Statistics = None,
        std: Statistics = None,
        labels: StrPath | pd.DataFrame | None = None,
        classes: Sequence[str] | None = None,
        crop: float | None = None,
    ) -> StimulusSet:
        """Read the images of a folder (not of its subfolders), in natural order: s2 before s10.

        Parameters
        ----------
        folder
            PNG, JPEG, WebP, BMP, TIFF, GIF or PPM files of one frame, gray or RGB, 8 bits. They are turned as
            their EXIF orientation says. Ids are the file names without suffix.
        size
            Height and width in pixels to which the images are resized (antialiased, bilinear); one number for
            a square. Images of different sizes need it.
        channels
            Number of channels: 1 (gray) or 3 (RGB).
        mean
            Number that is subtracted from each channel, on a scale from 0 (black) to 1 (white), or "imagenet"
            for the values that networks trained on ImageNet use.
        std
            Number by which each channel is divided after that, or "imagenet".
        labels
            CSV, TSV or DataFrame with a column ``id`` (in a DataFrame it may be the index). A column
            ``label`` gives the labels: whole numbers or text. All columns go into the table; rows without an
            image are left out, and images without a row are an error.
        classes
            Names of the classes in the order of their numbers; by default all names of text labels in natural
            order.
        crop
            Part of each image around its center that is kept before resizing, above 0: 1 is the largest part
            with the proportions of the size, and 0.875 cuts 224 out of 256 pixels, as for networks trained on
            ImageNet. By default the whole image is squashed to the size.

        Warns
        -----
        UserWarning
            The folder holds files of other types or subfolders; images were turned.
        """
        paths, passed_over = image_paths(check_path("folder", folder), labels)
        if passed_over:
            notify(
                f"{folder}: {len(passed_over)} items are not read, as they are subfolders or not named as "
                f"images: {listed(passed_over)}",
            )
        ids = tuple(path.stem for path in paths)
        _warn_of_similar(ids, str(folder))
        table = _rows_of(labels, ids)
        settings = {"size": size, "channels": channels, "mean": mean, "std": std, "crop": crop}
        pixels, prepared = read_images(paths, Preprocessing.from_dict(settings))
        numbers, names = _labels_of(table, "label", classes)
        return cls(ids, pixels, prepared, numbers, table, str(folder), classes=names)

    @classmethod
    def from_table(
        cls,
        table: StrPath | pd.DataFrame,
        id: str = "id",
        path: str = "path",
        label: str | None = None,
        folder: StrPath | None = None,
        classes: Sequence[str] | None = None,
        **preprocessing: Unpack[_Preprocessing],
    ) -> StimulusSet:
        """Read the images that a CSV, TSV or DataFrame lists, in its order.

        Parameters
        ----------
        table
            One row per stimulus; its other columns are kept as the table of the set.
        id, path, label
            Names of its columns. By default labels come from the column ``label`` if it exists. One column
            may be both the id and the path: ids are then file names without suffix, as in `from_folder`.
        folder
            Folder to which paths are relative; by default that of the table, or the current one for a
            DataFrame.
        classes
            As in `from_folder`.
        **preprocessing
            ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `Preprocessing`.
        """
        frame = read_table(table, id, path, *([label] if label else []))
        if path not in frame:  # it is the index
            frame[path] = frame.index
            frame.index = pd.Index(check_ids([Path(x).stem for x in frame.index], "images"), name=id)
        source = None if isinstance(table, pd.DataFrame) else str(table)
        root = Path(folder) if folder is not None else Path(source).parent if source else Path()
        for name, value in frame[path].items():
            if not isinstance(value, str | os.PathLike) or not str(value):
                raise NeurordlError(f"stimulus {name!r} has no image path: {path!r} is {value!r}; fill it in")
        paths = [root / value for value in frame[path]]
        pixels, prepared = read_images(paths, Preprocessing.from_dict(preprocessing))
        _warn_of_similar(frame.index, source or "the table")
        rest = frame.drop(columns=path)
        numbers, names = _labels_of(rest, label or "label", classes)
        return cls(tuple(frame.index), pixels, prepared, numbers, rest, source, classes=names)

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike | Tensor,
        ids: Iterable[str],
        labels: npt.ArrayLike | Tensor | None = None,
        table: StrPath | pd.DataFrame | None = None,
        source: str | None = None,
        classes: Sequence[str] | None = None,
        **preprocessing: Unpack[_Preprocessing],
    ) -> StimulusSet:
        """Copy images from an array.

        Parameters
        ----------
        array
            (n, H, W), (n, H, W, C) or (n, C, H, W) with C of 1 or 3; whole numbers from 0 to 255, or floats,
            which are kept as they are.
        ids, labels
            In the order of the array. Labels are whole numbers or text, kept as the column ``label``.
        table
            As ``labels`` of `from_folder`: its rows are matched by id.
        source
            Where the images came from, for the record.
        classes
            As in `from_folder`.
        **preprocessing
            ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `Preprocessing`. By default the channels
            of the array are kept; with 3, a single channel is repeated.
        """
        names = check_ids(ids, "stimuli")
        _warn_of_similar(names, source or "the array")
        pixels, prepared = array_pixels(array, preprocessing)
        frame = _rows_of(table, names)
        if labels is not None:
            column = labels.tolist() if isinstance(labels, Tensor) else np.asarray(labels).tolist()
            if len(column) != len(names):
                raise NeurordlError(f"{len(names)} ids but {len(column)} labels: give one per stimulus")
            frame = frame.assign(label=column)
        numbers, known = _labels_of(frame, "label", classes)
        return cls(names, pixels, prepared, numbers, frame, source, classes=known)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.pixels.shape[1:]))
        labels = "no labels" if self.labels is None else f"{len(set(self.labels.tolist()))} classes"
        return f"StimulusSet({len(self)} stimuli, {shape}, {labels}, source={self.source!r})"

    def _repr_html_(self) -> str:
        rows = [["ids", listed(self.ids)]]
        if self.labels is not None:
            numbers = np.unique(self.labels.numpy(), return_counts=True)
            names = self.classes or range(int(max(numbers[0], default=-1)) + 1)
            counts = [f"{names[k]} ({n:,})" for k, n in zip(*numbers, strict=True)]
            rows.append(["labels", listed(counts, most=12)])
        rows += [["columns of the table", listed(self.table, most=12)]]
        rows += [["held-out ids", listed(self.held_out_ids)]] if self.held_out_ids else []
        rows += [[name, value] for name, value in vars(self.preprocessing).items() if value is not None]
        return folded_html(repr(self), rows)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of ids, pixels and labels, in their order."""
        labels = None if self.labels is None else sha256_array(self.labels)
        return sha256_json([self.ids, sha256_array(self.pixels), labels])

    @cached_property
    def fingerprints(self) -> Bytes:
        """By what each image is known again under another id; see `neurordl.stimuli.fingerprints`."""
        return fingerprints(self.pixels)

    def images(self, index: Sequence[int] | npt.NDArray[Any] | Tensor | slice | None = None) -> Tensor:
        """Return images as a network takes them: (n, channels, height, width), float32.

        They are (pixels / 255 - mean) / std; pixels of a float array are not divided by 255. ``index`` holds
        positions or is a mask; None takes all images.
        """
        if index is not None and not isinstance(index, slice | Tensor):
            index = torch.as_tensor(index, dtype=None if len(index) else torch.long)
        view = index is None or isinstance(index, slice)  # positions and masks make a copy
        images = (self.pixels if index is None else self.pixels[index]).to(torch.float32, copy=view)
        if self.pixels.dtype == torch.uint8:
            images.div_(255)
        if self.preprocessing.mean is not None:
            images.sub_(torch.tensor(self.preprocessing.mean).view(-1, 1, 1))
        if self.preprocessing.std is not None:
            images.div_(torch.tensor(self.preprocessing.std).view(-1, 1, 1))
        return images

    def subset(self, ids: Iterable[str]) -> StimulusSet:
        """Return the stimuli of ``ids`` in their order; an id that is not in the set is an error."""
        return self._take(match_ids(ids, self.ids, names=("subset", "stimuli")).index)

    def split(
        self, held_out: float | Iterable[str] = 0.25, seed: int = 0, stratify: str | None = None
    ) -> tuple[StimulusSet, StimulusSet]:
        """Split the stimuli into a training part and a held-out part; both keep the order of the set.

        Parameters
        ----------
        held_out
            The fraction of the stimuli to hold out, or their ids.
        seed
            Seed of the draw, which does not depend on the order of the set.
        stratify
            A column of the table, or "label". The same fraction of each category is then held out, up to
            rounding.

        Raises
        ------
        NeurordlError
            A part has fewer than 3 stimuli, an id or column does not exist, or the fraction is not between 0
            and 1.
        """
        if not isinstance(held_out, float | int):
            return self._parts(match_ids(held_out, self.ids, names=("held-out part", "stimuli")).index)
        check_number("held_out", held_out, 0, 1, open_low=True, open_high=True, remedy="or give ids")
        order, generator = _shuffle(self.ids, seed, self._strata(stratify))
        n_held_out = int(len(self) * held_out + 0.5)
        # evenly spaced along a list in which strata lie side by side, from a random start
        steps = (np.arange(len(self) + 1) * n_held_out + generator.integers(len(self))) // len(self)
        return self._parts(order[np.diff(steps) == 1])

    def folds(
        self, n: int, seed: int = 0, stratify: str | None = None
    ) -> list[tuple[StimulusSet, StimulusSet]]:
        """Make ``n`` splits (training part, held-out part) that hold out each stimulus once."""
        check_count("n", n, 2)
        order, _ = _shuffle(self.ids, seed, self._strata(stratify))
        return [self._parts(order[fold::n]) for fold in range(n)]

    def draw(self, n: int, seed: int = 0) -> StimulusSet:
        """Draw ``n`` stimuli, equally many of each class, or one more. ``source`` records ``n`` and the seed.

        If a class has too few stimuli, all of them are drawn, and more of the other classes.

        Parameters
        ----------
        n
            Number of stimuli, at least one of each class.
        seed
            Seed of the draw, which does not depend on the order of the set.

        Raises
        ------
        NeurordlError
            There are more classes, or fewer stimuli, than ``n``.
        """
        labels = pd.Series([""] * len(self) if self.labels is None else self.labels.tolist())
        n_classes = labels.nunique()
        if not n_classes <= n <= len(self):
            raise NeurordlError(f"{n} cannot be drawn of {len(self)} stimuli in {n_classes} classes")
        order, _ = _shuffle(self.ids, seed, None)
        turns = labels.iloc[order].groupby(labels).cumcount()  # the first of each class, then the second
        chosen = order[np.argsort(turns, kind="stable")[:n]]
        source = f"{self.source}, {n} of {len(self)} drawn by seed {seed}"
        return replace(self._take(np.sort(chosen)), held_out_ids=(), source=source)

    def _strata(self, stratify: str | None) -> list[str] | None:
        if stratify is None:
            return None
        if stratify == "label" and self.labels is not None:
            return [str(label) for label in self.labels.tolist()]
        check_columns("the table of the stimuli", self.table.columns, (stratify,), "choose another stratify=")
        column = self.table[stratify]
        if column.isna().any():
            stimulus = self.ids[int(column.isna().argmax())]
            raise NeurordlError(f"stimulus {stimulus!r} has no {stratify!r}; fill it in")
        return [str(value) for value in column]

    def _parts(self, held_out: Ints) -> tuple[StimulusSet, StimulusSet]:
        chosen = np.zeros(len(self), dtype=bool)
        chosen[held_out] = True
        if min((~chosen).sum(), chosen.sum()) < _SMALLEST_PART:
            sizes = f"{(~chosen).sum()} for training and {chosen.sum()} held out"
            problem = f"{len(self)} stimuli cannot be split into {sizes}"
            raise NeurordlError(f"{problem}: each part needs at least {_SMALLEST_PART}")
        training, test = self._take(np.flatnonzero(~chosen)), self._take(np.flatnonzero(chosen))
        held_out_ids = (*self.held_out_ids, *test.ids)
        return replace(training, held_out_ids=held_out_ids), replace(test, held_out_ids=())

    def _take(self, index: Ints) -> StimulusSet:
        rows = torch.tensor(index)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            pixels=self.pixels[rows],
            labels=None if self.labels is None else self.labels[rows],
            table=self.table.iloc[index],
        )


def warn_of_absent(ids: Sequence[str], *parts: StimulusSet | None) -> None:
    """Give a notice of stimuli of RDMs that have no image, neither in the sets nor where these come from."""
    known = {stimulus for part in parts if part is not None for stimulus in (*part.ids, *part.known_ids)}
    if absent := [stimulus for stimulus in ids if stimulus not in known]:
        text = f"{len(absent)} of {counted(len(ids), 'stimulus')} of the RDMs have no image and are left out"
        notify(f"{text}: {listed(absent, quote=True)}")


def _warn_of_similar(ids: Iterable[object], name: str) -> None:
    if similar := similar_ids(ids):
        notify(f"stimuli of {name}: {similar}")


def _shuffle(ids: Sequence[str], seed: int, strata: Sequence[str] | None) -> tuple[Ints, np.random.Generator]:
    """Positions in random order, strata side by side; the order of the ids does not matter."""
    generator = np.random.default_rng(seed)
    natural = np.array(sorted(range(len(ids)), key=lambda i: natural_key(ids[i])))
    order = natural[generator.permutation(len(ids))]
    if strata is not None:
        names = sorted(set(strata), key=natural_key)
        rank = dict(zip(names, generator.permutation(len(names)), strict=True))
        order = np.array(sorted(order, key=lambda i: rank[strata[i]]))
    return order, generator


def check_stimuli(stimuli: object, name: str = "stimuli") -> None:
    """Refuse what is not a StimulusSet, such as the folder of the images."""
    remedy = "make one with StimulusSet.from_array(images, ids)"
    if isinstance(stimuli, str | os.PathLike):
        remedy = f"read the images with nrl.StimulusSet.from_folder({str(stimuli)!r}, size=...)"
    check_type(name, stimuli, StimulusSet, remedy)


def read_table(table: StrPath | pd.DataFrame, id: str, *needed: str) -> pd.DataFrame:
    """Read a CSV or TSV file, or copy a DataFrame, and index it by the column ``id``.

    Where ``id`` is "id" or "stimulus" the column may be called either; in a DataFrame the ids may be its
    index. Ids stay text ("007", "NA"). In other columns of a file blanks, "n/a" and "nan" are missing values
    (see `is_missing`), and numbers become numbers.

    Parameters
    ----------
    table
        The file or the DataFrame.
    id, *needed
        The column of the ids, and other columns that must exist.

    Raises
    ------
    NeurordlError
        The file cannot be read, a column is missing, or ids are not unique text.
    """
    if isinstance(table, pd.DataFrame):
        name, frame = "the table", table.copy()
        if id not in frame.columns and not pd.api.types.is_numeric_dtype(frame.index):
            frame = frame.rename_axis(id).reset_index()
    else:
        check_path("table", table)
        name, frame = str(table), read_frame(table, keep=("id", "stimulus", id, *needed))
    if id in ("id", "stimulus") and id not in frame:
        id = id_column(frame.columns) or id
    remedy = "rename the column with the ids to 'id'" if id == "id" and id not in frame else ""
    check_columns(name, frame.columns, (id, *needed), remedy)
    check_ids(frame[id], f"rows of {name}")
    frame = frame.set_index(id)
    if not isinstance(table, pd.DataFrame):
        frame = frame.mask(frame.map(is_missing), np.nan)
        for column in frame.columns:
            with suppress(ValueError, TypeError):
                frame[column] = pd.to_numeric(frame[column])
    return frame


def _rows_of(table: StrPath | pd.DataFrame | None, ids: Sequence[str]) -> pd.DataFrame:
    """The rows of a table for ``ids``, in their order; an id without a row is an error."""
    if table is None:
        return pd.DataFrame(index=list(ids))
    names = "stimuli", "rows of the table" if isinstance(table, pd.DataFrame) else f"rows of {table}"
    frame, remedy = read_table(table, "id"), "add the rows, or remove the images"
    return frame.iloc[match_ids(ids, frame.index, names=names, remedy=remedy).index]


def _labels_of(
    table: pd.DataFrame, column: str, classes: Sequence[str] | None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """A column as labels, int64, and the names of the classes, if known; None without the column.

    Text is numbered in the order of ``classes``, by default in natural order of the names; whole numbers are
    places in ``classes``.
    """
    if column not in table.columns:
        return None, None
    if repeated := sorted(name for name, count in Counter(classes or ()).items() if count > 1):
        raise NeurordlError(f"classes= names {repeated[0]!r} twice; name each class once, in its place")
    values = table[column]
    if missing := table.index[values.map(is_missing)].tolist():
        absent = f"{len(missing)} of {len(table)} stimuli have no {column} (blank or n/a): {listed(missing)}"
        raise NeurordlError(f"{absent}; fill it in, or leave them out")
    warn_of_names(values, f"labels in the column {column!r}")
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64)
        if (fractions := numbers[(numbers % 1 != 0) | (np.abs(numbers) > 2**53)]).size:
            raise NeurordlError(f"labels must be whole numbers or names, but one is {fractions[0]}")
        if classes is not None and ((numbers < 0) | (numbers >= len(classes))).any():
            problem = f"labels run from {numbers.min():.0f} to {numbers.max():.0f}"
            raise NeurordlError(f"{problem}, but classes= has {len(classes)} names; name each from 0 on")
        return torch.from_numpy(numbers.astype(np.int64)), None if classes is None else tuple(classes)
    names = values.astype(str)
    known = tuple(sorted(set(names), key=natural_key) if classes is None else classes)
    if similar := similar_ids(known, "classes"):
        notify(f"labels in the column {column!r}: {similar}")
    if unknown := sorted(set(names) - set(known), key=natural_key):
        problem = f"label {unknown[0]!r} is not among the classes ({listed(known, most=10)})"
        raise NeurordlError(f"{problem}; name all of them in classes=, or correct the label")
    number = {name: position for position, name in enumerate(known)}
    return torch.tensor([number[name] for name in names]), known
