"""Meshes of cortical surfaces: GIFTI, FreeSurfer's geometry, and meshes of nilearn."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.gifti.gifti import GiftiDataArray

from neurordl.arrays import Floats, Ints
from neurordl.errors import NeurordlError, notify
from neurordl.io import damage_named
from neurordl.patterns.surfaces import (
    HEMISPHERES,
    both_files,
    hemisphere_of,
    read_gifti,
    side_meta,
    which_hemisphere,
)
from neurordl.validate import listed

MeshLike: TypeAlias = "str | os.PathLike[str] | tuple[Any, Any] | Any"
"""A file, a pair (coordinates, faces), or a mesh of nilearn."""
Surface: TypeAlias = "Mapping[str, MeshLike] | str | os.PathLike[str] | Any"
"""A mesh for each hemisphere, nilearn's `PolyMesh`, or a path with ``{hemi}``."""

_GIFTI = re.compile(r"(?i)\.gii(\.gz)?$")
_BEYOND = 10.0  # mm on the other side, as far as no surface reaches that is centered at 0
# surfaces on which lengths are not those of the cortex
_BENT = re.compile(r"(?i)(inflated|infl|sphere|flat)(?![a-z])")


class Mesh(NamedTuple):
    """A triangular mesh.

    Attributes
    ----------
    coordinates
        (vertices, 3), in mm.
    faces
        (triangles, 3) vertices.
    name
        What messages call it.
    """

    coordinates: Floats
    faces: Ints
    name: str


def read_meshes(surface: Surface) -> dict[str, Mesh]:
    """Read the mesh of each hemisphere.

    Parameters
    ----------
    surface
        A mapping from "left" and "right", or one of them, to a mesh: GIFTI (``.surf.gii``), a geometry of
        FreeSurfer (``lh.white``), nilearn's mesh, or arrays (coordinates, faces). It can also be nilearn's
        ``PolyMesh``, or a path in which ``{hemi}`` stands for ``L`` and ``R``, or ``lh`` and ``rh``.

    Raises
    ------
    NeurordlError
        A file is absent, damaged, no mesh, or of another hemisphere.
    """
    if isinstance(surface, str | os.PathLike):
        side = hemisphere_of(surface)
        if "{hemi}" in str(surface):
            surface = both_files(str(surface))
        elif side is None:
            raise NeurordlError(
                f"surface={str(surface)!r} does not say which hemisphere it is; give {{'left': ..., 'right': "
                "...}, or a path with {hemi}"
            )
        else:
            surface = {side: surface}
    parts = getattr(surface, "parts", surface)
    if not isinstance(parts, Mapping) or not parts or set(parts) - set(HEMISPHERES):
        problem = f"the keys {listed(parts)}" if isinstance(parts, Mapping) else type(surface).__name__
        raise NeurordlError(f"surface= is {problem}; expected the meshes of 'left' and 'right'")
    meshes = {side: _read_mesh(parts[side], side) for side in HEMISPHERES if side in parts}
    if bent := [mesh.name for mesh in meshes.values() if _BENT.search(Path(mesh.name).name)]:
        notify(
            f"{bent[0]}: distances on inflated, spherical and flat surfaces are not those along the cortex; "
            "take the midthickness or white surface for them"
        )
    _check_sides(meshes)
    return meshes


def _check_sides(meshes: Mapping[str, Mesh]) -> None:
    """Give a notice if meshes lie on the other side of the brain than their hemisphere."""
    means = {side: mesh.coordinates[:, 0].mean() for side, mesh in meshes.items()}
    if crossed := [side for side, mean in means.items() if mean * (-1 if side == "left" else 1) < -_BEYOND]:
        side = crossed[0]
        notify(
            f"{meshes[side].name} is given as the {side} hemisphere, and lies on the other side (its mean x "
            f"is {means[side]:.0f} mm; the left side has x below 0): check that they are not exchanged"
        )


def _read_mesh(mesh: Any, side: str) -> Mesh:
    if isinstance(mesh, Mesh):  # it was read before
        return mesh
    name = f"the {side} mesh"
    file = getattr(mesh, "file_path", mesh)  # nilearn's meshes may know their file
    if isinstance(file, str | os.PathLike):
        name = str(Path(file))
        if not Path(file).is_file():
            raise NeurordlError(f"there is no mesh {name}; check the path")
        if (other := hemisphere_of(name)) not in (None, side):
            raise NeurordlError(f"{name} is given as the {side} hemisphere, and its name says {other}")
    if file is mesh and isinstance(mesh, str | os.PathLike):
        with damage_named(f"the mesh {name}", "give a file that can be read whole"):
            mesh = _from_file(name, side)
    elif hasattr(mesh, "coordinates") and hasattr(mesh, "faces"):
        mesh = (mesh.coordinates, mesh.faces)
    try:
        points, triangles = mesh
        coordinates, faces = np.asarray(points, dtype=np.float64), np.asarray(triangles)
    except (TypeError, ValueError) as error:
        raise NeurordlError(f"{name} is no mesh; give a file, or arrays (coordinates, faces)") from error
    shapes = coordinates.ndim == faces.ndim == 2 and coordinates.shape[1] == faces.shape[1] == 3
    if not shapes or faces.dtype.kind not in "iu" or not len(faces):
        raise NeurordlError(
            f"{name} has coordinates {coordinates.shape} and faces {faces.shape} of {faces.dtype}; expected "
            "(vertices, 3), and whole numbers (triangles, 3)"
        )
    if not np.isfinite(coordinates).all():
        raise NeurordlError(f"{name} has coordinates that are NaN or infinite; take another")
    if not 0 <= int(faces.min()) <= int(faces.max()) < len(coordinates):
        raise NeurordlError(f"{name} has triangles of vertices beyond its {len(coordinates)}; take another")
    return Mesh(coordinates, faces.astype(np.int64), name)


def _from_file(path: str, side: str) -> tuple[Any, Any]:
    """Coordinates and faces of a file: GIFTI by its name, else FreeSurfer's geometry by its first bytes."""
    if not _GIFTI.search(path):
        coordinates, faces = nib.freesurfer.io.read_geometry(path)
        return coordinates, faces
    image = read_gifti(path)
    which_hemisphere(path, side, image)
    parts = [image.get_arrays_from_intent(f"NIFTI_INTENT_{intent}") for intent in ("POINTSET", "TRIANGLE")]
    if not all(parts):
        raise NeurordlError(f"{path} has no mesh; give a .surf.gii, which has coordinates and triangles")
    return parts[0][0].data, parts[1][0].data


def edges_of(mesh: Mesh) -> tuple[Ints, Ints]:
    """The two vertices of each edge, (edges,) each; an edge of two triangles is there once."""
    pairs = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    first, second = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).T
    return first, second


def areas_of(mesh: Mesh) -> Floats:
    """The area of each vertex, (vertices,) in mm²: a third of the triangles that it is a corner of."""
    a, b, c = np.moveaxis(mesh.coordinates[mesh.faces], 1, 0)
    thirds = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    areas = np.bincount(mesh.faces.ravel(), np.repeat(thirds, 3), len(mesh.coordinates))
    return areas.astype(np.float64)


def mesh_bytes(mesh: Mesh, side: str) -> bytes:
    """The mesh of a hemisphere as a GIFTI file (``.surf.gii``), whose coordinates are float32."""
    arrays = [
        GiftiDataArray(mesh.coordinates.astype(np.float32), "NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32"),
        GiftiDataArray(mesh.faces.astype(np.int32), "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32"),
    ]
    content: bytes = nib.GiftiImage(meta=side_meta(side), darrays=arrays).to_bytes()
    return content
