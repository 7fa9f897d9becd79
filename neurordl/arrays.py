"""Types of arrays and of rsatoolbox's containers, and means that leave out what is not a number."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase
    from rsatoolbox.rdm.rdms import RDMs
    from typing_extensions import TypeIs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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
