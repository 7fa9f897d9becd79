"""Types of arrays and of rsatoolbox's containers, means that leave out what is not a number, and times."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError, explain, notify

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase
    from rsatoolbox.rdm.rdms import RDMs
    from typing_extensions import TypeIs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_LONG_AFTER = 50.0  # seconds from the stimulus, where times are milliseconds for certain but for rare studies


def is_rdms(value: object) -> TypeIs[RDMs]:
    """Whether a value is an ``RDMs`` of rsatoolbox, which is slow to import and not imported for this."""
    module = sys.modules.get("rsatoolbox.rdm.rdms")
    return module is not None and isinstance(value, module.RDMs)


def is_dataset(value: object) -> TypeIs[DatasetBase]:
    """Whether a value is a ``Dataset`` of rsatoolbox, see `is_rdms`."""
    module = sys.modules.get("rsatoolbox.data.base")
    return module is not None and isinstance(value, module.DatasetBase)


def nan_mean(values: Floats, axis: int | None = None) -> Floats:
    """Mean of the finite values along an axis (of all values by default); NaN where there are none.

    Unlike ``numpy.nanmean`` it neither warns about empty slices nor counts infinite values.

    Examples
    --------
    >>> nan_mean(np.array([[1.0, np.nan], [3.0, np.nan]]), axis=0)
    array([ 2., nan])
    """
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    count = finite.sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def check_times(label: str, values: object) -> Floats:
    """Return the argument times= as numbers that increase, in seconds; say so if it looks like milliseconds.

    Raises
    ------
    NeurordlError
        The times of what the label names are not such numbers.
    """
    with explain(f"times= of {label} are no numbers"):
        times = np.asarray(values, dtype=np.float64)
    if times.ndim != 1 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise NeurordlError(f"times= of {label} must be numbers that increase, in seconds")
    if np.abs(times).max(initial=0.0) > _LONG_AFTER:
        notice = f"{label}: times from {times[0]:g} to {times[-1]:g} are taken as seconds"
        notify(f"{notice}; if they are milliseconds, pass times=times / 1000")
    return times
