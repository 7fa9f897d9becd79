from __future__ import annotations

import json
import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neurordl.errors import NeurordlError
from neurordl.stimuli import Preprocessing, StimulusSet


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4), seed: int = 0) -> Path:
    """An image of noise, ``size`` as PIL says it: width, height."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (10, 2, 1):
        save(tmp_path / f"s{number}.png", seed=number)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._s1.png").write_bytes(b"what macOS leaves")
    (tmp_path / "deeper").mkdir()
    return tmp_path


def numbered(n: int, **more: Any) -> StimulusSet:
    return StimulusSet.from_array(
        np.arange(n, dtype=np.uint8).reshape(n, 1, 1), [f"s{i}" for i in range(n)], **more
    )


# reading files


def test_folder_in_natural_order(folder: Path) -> None:
    stimuli = StimulusSet.from_folder(folder)
    assert stimuli.ids == ("s1", "s2", "s10")
    assert stimuli.pixels.shape == (3, 3, 4, 6)
    assert stimuli.pixels.dtype == torch.uint8
    assert stimuli.labels is None
    assert stimuli.source == str(folder)
    with Image.open(folder / "s10.png") as image:
        assert (stimuli.pixels[2].permute(1, 2, 0).numpy() == np.asarray(image)).all()


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("stored", ["L", "RGB", "P", "1", "CMYK"])
def test_modes_and_resize_are_those_of_pillow(channels: int, mode: str, stored: str, tmp_path: Path) -> None:
    suffix = "jpg" if stored == "CMYK" else "png"
    path = save(tmp_path / f"a.{suffix}", stored, (13, 9))
    stimuli = StimulusSet.from_folder(tmp_path, size=(5, 8), channels=channels)
    with Image.open(path) as image:
        known = np.asarray(image.convert(mode).resize((8, 5), Image.Resampling.BILINEAR)).reshape(
            5, 8, channels
        )
    assert (stimuli.pixels[0].permute(1, 2, 0).numpy() == known).all()


def test_gray_files_that_are_read_as_rgb_are_counted(tmp_path: Path) -> None:
    for name, mode in (("colors", "RGB"), ("gray", "L"), ("lines", "1")):
        save(tmp_path / f"{name}.png", mode)
    expected = r"^2 of 3 images are gray, and are read as RGB .*: gray\.png, lines\.png; channels=1 reads"
    with pytest.warns(UserWarning, match=expected):
        StimulusSet.from_folder(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StimulusSet.from_folder(tmp_path, channels=1)


def test_mixed_sizes_need_a_size(folder: Path) -> None:
    save(folder / "s3.jpg", "L", (7, 7))
    with pytest.raises(
        NeurordlError, match=r"s1\.png is 4 x 6, .*s3\.jpg is 7 x 7 \(height x width\); give size="
    ):
        StimulusSet.from_folder(folder)
    assert StimulusSet.from_folder(folder, size=5).pixels.shape == (4, 3, 5, 5)


@pytest.mark.parametrize("damage", [b"", b"not an image", "truncated", "flipped"])
def test_unreadable_image_is_named(damage: bytes | str, folder: Path) -> None:
    whole = (folder / "s2.png").read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "flipped": whole[:45] + b"\x00" * 20 + whole[65:]}
    (folder / "s2.png").write_bytes(damage if isinstance(damage, bytes) else broken[damage])
    with pytest.raises(NeurordlError, match=r"cannot read .*s2\.png"):
        StimulusSet.from_folder(folder)


def test_transparency_is_refused_where_it_shows(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 255)).save(tmp_path / "a.png")
    assert StimulusSet.from_folder(tmp_path).pixels[0, :, 0, 0].tolist() == [10, 20, 30]
    Image.new("RGBA", (4, 4), (10, 20, 30, 128)).save(tmp_path / "b.png")
    with pytest.raises(
        NeurordlError, match=r"b\.png is partly transparent.* on the background that was shown"
    ):
        StimulusSet.from_folder(tmp_path)


def test_deep_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(NeurordlError, match=r"a\.png has more than 8 bits for each color: save it as 8-bit"):
        StimulusSet.from_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_show_them(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    corner = np.zeros((16, 24, 3), np.uint8)
    corner[:8, :8] = 255
    corner[:8, 8:16] = 128
    Image.fromarray(corner).save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    steps = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (-1, False)}
    turns, mirrored = (steps | {7: (-1, True), 8: (1, False)})[orientation]
    shown = np.rot90(corner[:, ::-1] if mirrored else corner, turns)  # by the definition of EXIF 2.32
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stimuli = StimulusSet.from_folder(tmp_path)
    read = stimuli.pixels[0].permute(1, 2, 0).numpy()
    assert read.shape == shown.shape
    assert np.abs(read.astype(int) - shown).mean() < 8
    messages = [str(warning.message) for warning in caught]
    expected = f"1 of 1 images were turned or mirrored as their EXIF orientation says: a.{suffix};"
    assert [message[: len(expected)] for message in messages] == ([] if orientation == 1 else [expected])
    assert all(Path(warning.filename) == Path(__file__) for warning in caught)


def test_images_that_are_squashed_are_said(tmp_path: Path) -> None:
    for name, size in (("a", (100, 100)), ("b", (200, 100)), ("c", (101, 101)), ("d", (90, 120))):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.warns(UserWarning, match=r"2 of 4 images have other proportions .*: b\.png, d\.png;"):
        StimulusSet.from_folder(tmp_path, size=32)
    for name in "acd":
        (tmp_path / f"{name}.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StimulusSet.from_folder(tmp_path, size=(67, 33), channels=1).pixels.shape[2:] == (67, 33)
        assert StimulusSet.from_folder(tmp_path, size=32, crop=1, channels=1).pixels.shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("size", "crop", "resized", "box"),
    [
        (16, 1, (20, 16), (2, 0, 18, 16)),
        (8, 0.5, (20, 16), (6, 4, 14, 12)),
        ((8, 20), 1, (20, 16), (0, 4, 20, 12)),
        ((32, 40), 0.5, (80, 64), (20, 16, 60, 48)),
    ],
)
def test_a_crop_is_cut_out_of_the_resized_image(
    tmp_path: Path, size: Any, crop: float, resized: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """As Resize and CenterCrop of torchvision, for files and arrays; a run applies it again."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    own = Image.fromarray(pixels).resize(resized, Image.Resampling.BILINEAR).crop(box)
    stimuli = StimulusSet.from_folder(tmp_path, size=size, crop=crop)
    again = StimulusSet.from_folder(tmp_path, **stimuli.preprocessing.as_dict())
    of_array = StimulusSet.from_array(pixels[None], ["a"], size=size, crop=crop)
    for each in (stimuli, again, of_array):
        np.testing.assert_array_equal(each.pixels[0].permute(1, 2, 0), np.asarray(own))
        assert each.preprocessing.crop == crop


def test_a_crop_of_seven_eighths_is_that_of_torchvision(tmp_path: Path) -> None:
    """Resize(256) and CenterCrop(224) take the same part; they resize before they cut."""
    row, column = np.mgrid[:512, :768]
    pixels = np.stack([row / 2, column / 3, (row + column) / 5], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    resized = Image.fromarray(pixels).resize((384, 256), Image.Resampling.BILINEAR)
    own = np.asarray(resized.crop((80, 16, 304, 240))).astype(int)
    found = StimulusSet.from_folder(tmp_path, size=224, crop=0.875).pixels[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - own).max() <= 1


def test_all_of_a_folder_is_read_or_named(tmp_path: Path) -> None:
    names = ["s1.png", "s2.GIF", "s3.jfif", "s4.ppm", "s5.pgm", "s6.webp", "s7.bmp", "s8.jpe", "s9.tiff"]
    kinds = ["PNG", "GIF", "JPEG", "PPM", "PPM", "WEBP", "BMP", "JPEG", "TIFF"]
    for shade, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        gray = np.full((8, 8), 25 * shade, np.uint8)
        Image.fromarray(gray).save(
            tmp_path / name, format=kind, **({"lossless": True} if kind == "WEBP" else {})
        )
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"s{k},a\n" for k in range(1, 10)))
    (tmp_path / ".DS_Store").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stimuli = StimulusSet.from_folder(tmp_path, labels=tmp_path / "labels.csv", channels=1)
    assert stimuli.ids == tuple(f"s{k}" for k in range(1, 10))
    np.testing.assert_array_equal(stimuli.pixels[:, 0, 4, 4], 25 * np.arange(9))
    (tmp_path / "s10.heic").write_bytes(b"")
    (tmp_path / "more").mkdir()
    with pytest.warns(UserWarning, match=r"3 items are not read.*: labels\.csv, more/, s10\.heic"):
        StimulusSet.from_folder(tmp_path)


def test_names_that_are_alike_on_one_side_are_pointed_out(tmp_path: Path) -> None:
    for name in ("Face", "face", "house"):
        save(tmp_path / f"{name}.png")
    said = r"1 of 3 ids differs from another only by letter case, such as 'Face' and 'face'"
    with pytest.warns(UserWarning, match=said):
        stimuli = StimulusSet.from_folder(tmp_path)
    assert len(stimuli) == 3
    table = pd.DataFrame({"id": stimuli.ids, "path": [f"{name}.png" for name in stimuli.ids]})
    for make in (
        lambda: StimulusSet.from_table(table, folder=tmp_path),
        lambda: StimulusSet.from_array(stimuli.pixels, stimuli.ids),
    ):
        with pytest.warns(UserWarning, match=said) as caught:
            made = make()
        assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        made.subset(["Face", "face"])


def test_other_arguments_than_paths_and_arrays() -> None:
    for value in (None, 3):
        with pytest.raises(NeurordlError, match=r"folder=.*: expected a path, got"):
            StimulusSet.from_folder(value)  # type: ignore[arg-type]
        with pytest.raises(NeurordlError, match=r"table=.*: expected a path, got"):
            StimulusSet.from_table(value)  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match=r"the images are not an array: .*; give all the same shape"):
        StimulusSet.from_array([[[1]], [[1, 2]]], ["a", "b"])


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_several_frames_are_refused(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(NeurordlError, match=rf"a\.{suffix} has 3 frames; save the frame that was shown"):
        StimulusSet.from_folder(tmp_path)


def test_the_first_view_of_a_stereo_photograph_is_read(tmp_path: Path) -> None:
    views = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    views[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=views[1:])
    assert StimulusSet.from_folder(tmp_path).pixels[0, :, 4, 4].tolist() == [254, 0, 0]


def png16(path: Path, color_type: int, channels: int) -> None:
    """A PNG with 16 bits for each color, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + struct.pack(">H", 40_000) * 4 * channels for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_colors_of_16_bits_are_refused(tmp_path: Path) -> None:
    for color_type, channels in ((2, 3), (4, 2), (6, 4)):  # RGB, gray and RGB with transparency
        png16(tmp_path / "a.png", color_type, channels)
        with pytest.raises(
            NeurordlError, match=r"a\.png has more than 8 bits for each color: save it as 8-bit RGB"
        ):
            StimulusSet.from_folder(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(NeurordlError, match=r"b\.ppm has more than 8 bits"):
        StimulusSet.from_folder(tmp_path)
    (tmp_path / "b.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))
    assert not StimulusSet.from_folder(tmp_path).pixels.any()


def test_other_formats_under_the_name_of_an_image_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", format="ICO")
    with pytest.raises(NeurordlError, match=r"a\.png is in the format ICO: save it as PNG"):
        StimulusSet.from_folder(tmp_path)


def test_folders_that_are_none(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NeurordlError, match="does not exist"):
        StimulusSet.from_folder(tmp_path / "nowhere")
    with pytest.raises(NeurordlError, match="no images in"):
        StimulusSet.from_folder(folder / "deeper")
    save(folder / "s2.jpg")
    with pytest.raises(NeurordlError, match=r"s2\.jpg and s2\.png would both have the id 's2'"):
        StimulusSet.from_folder(folder)


# tables and labels


def test_labels_of_a_folder_are_matched_by_id(folder: Path) -> None:
    text = "id\tlabel\tcategory\nt\tcat\tx\ns10\tdog\tanimal\ns1\tcat\tanimal\ns2\tcar\tthing\n"
    (folder / "labels.tsv").write_text(text)
    stimuli = StimulusSet.from_folder(folder, labels=folder / "labels.tsv")
    assert stimuli.labels is not None
    assert stimuli.labels.tolist() == [1, 0, 2]  # car, cat, dog
    assert stimuli.table["category"].tolist() == ["animal", "thing", "animal"]
    assert tuple(stimuli.table.index) == stimuli.ids
    frame = pd.DataFrame({"label": [7, 8, 9]}, index=["s2", "s1", "s10"])
    again = StimulusSet.from_folder(folder, labels=frame)
    assert again.labels is not None
    assert again.labels.tolist() == [8, 7, 9]


def test_labels_missing_for_an_id(folder: Path) -> None:
    (folder / "labels.csv").write_text("id,label\ns1,0\ns10,1\n")
    with pytest.raises(
        NeurordlError, match=r"1 of 3 ids of the stimuli are not in the rows of .*labels\.csv: 's2'"
    ):
        StimulusSet.from_folder(folder, labels=folder / "labels.csv")
    (folder / "labels.csv").write_text("id,label\ns1,0\ns10,1\ns2,\n")
    with pytest.raises(NeurordlError, match=r"stimuli have no label .blank or n/a.: s2;"):
        StimulusSet.from_folder(folder, labels=folder / "labels.csv")


@pytest.mark.parametrize("missing", ["n/a", "N/A", "nan", " NaN ", ""])
@pytest.mark.parametrize("label", ["1", "face"])
def test_labels_that_stand_for_none(folder: Path, missing: str, label: str) -> None:
    """As events, labels of one stimulus made all others text, and "n/a" was a class."""
    rows = [("s1", label), ("s10", missing), ("s2", label)]
    (folder / "labels.csv").write_text(
        "id,label\n" + "".join(f"{stimulus},{name}\n" for stimulus, name in rows)
    )
    for table in (folder / "labels.csv", pd.DataFrame(rows, columns=["id", "label"])):
        with pytest.raises(NeurordlError, match=r"1 of 3 stimuli have no label .blank or n/a.: s10;"):
            StimulusSet.from_folder(folder, labels=table)
    with pytest.raises(NeurordlError, match=r"1 of 3 stimuli have no label .blank or n/a.: s10;"):
        StimulusSet.from_array(np.zeros((3, 2, 2)), *zip(*rows, strict=True))


@pytest.mark.parametrize("name", ["NA", "null", "None", "<NA>"])
def test_labels_that_other_software_writes_for_none(folder: Path, name: str) -> None:
    (folder / "labels.csv").write_text(f"id,label\ns1,a\ns10,{name}\ns2,b\n")
    with pytest.warns(UserWarning, match=f"'label': '{name}' is taken for a name .1 of 3 rows"):
        stimuli = StimulusSet.from_folder(folder, labels=folder / "labels.csv")
    assert stimuli.classes is not None
    assert name in stimuli.classes


def test_other_columns_that_stand_for_none(folder: Path) -> None:
    (folder / "labels.csv").write_text("id,size\ns1,1.5\ns10,n/a\ns2,2\n")
    table = StimulusSet.from_folder(folder, labels=folder / "labels.csv").table
    assert table["size"].isna().tolist() == [False, False, True]
    assert table["size"].sum() == 3.5


@pytest.mark.parametrize(
    "text, said",
    [
        ("name,label\ns1,0\n", r"labels\.csv has no column 'id': its columns are name, label"),
        ("id,label\ns1,0\ns1,1\n", r"ids of the rows of .*labels\.csv must be unique, but 's1'"),
        ("id,label\n,0\n", "non-empty strings"),
        ("", "cannot read"),
        ("id,label\ns1,0.5\ns2,0\ns10,1\n", r"whole numbers or names, but one is 0\.5"),
    ],
)
def test_wrong_tables(text: str, said: str, folder: Path) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(NeurordlError, match=said):
        StimulusSet.from_folder(folder, labels=folder / "labels.csv")


def test_missing_table_and_table_that_is_not_text(folder: Path) -> None:
    for name in ("gone.csv", "s1.png"):
        with pytest.raises(NeurordlError, match=f"cannot read .*{name}"):
            StimulusSet.from_folder(folder, labels=folder / name)


def test_from_table(folder: Path) -> None:
    text = "name,file,kind,size_cm,label\n007,s10.png,b,3,1\nNA,s1.png,a,4.5,0\n1e3,s2.png,b,,0\n"
    (folder / "stimuli.csv").write_text("\ufeff" + text, encoding="utf-8")  # as spreadsheets save it
    stimuli = StimulusSet.from_table(folder / "stimuli.csv", id="name", path="file")
    assert stimuli.ids == ("007", "NA", "1e3")
    assert stimuli.labels is not None
    assert stimuli.labels.tolist() == [1, 0, 0]
    by_kind = StimulusSet.from_table(folder / "stimuli.csv", id="name", path="file", label="kind")
    assert by_kind.labels is not None
    assert by_kind.labels.tolist() == [1, 0, 1]
    assert list(stimuli.table.columns) == ["kind", "size_cm", "label"]
    assert np.allclose(stimuli.table["size_cm"], [3, 4.5, np.nan], equal_nan=True)
    known = StimulusSet.from_folder(folder).subset(["s10", "s1", "s2"])
    assert torch.equal(stimuli.pixels, known.pixels)
    frame = pd.DataFrame({"id": ["b", "a"], "path": ["s10.png", folder / "s1.png"]})
    assert torch.equal(StimulusSet.from_table(frame, folder=folder).pixels, known.pixels[:2])
    assert list(frame.columns) == ["id", "path"]


def test_tables_without_paths_or_images(folder: Path) -> None:
    with pytest.raises(NeurordlError, match="the table has no column 'path': its columns are id, file"):
        StimulusSet.from_table(pd.DataFrame({"id": ["a"], "file": ["s1.png"]}))
    with pytest.raises(NeurordlError, match="stimulus 'b' has no image path"):
        StimulusSet.from_table(pd.DataFrame({"id": ["a", "b"], "path": ["s1.png", None]}), folder=folder)
    with pytest.raises(NeurordlError, match=r"cannot read .*s9\.png: No such file"):
        StimulusSet.from_table(pd.DataFrame({"id": ["a"], "path": ["s9.png"]}), folder=folder)
    with pytest.raises(NeurordlError, match="no column 'kind'"):
        StimulusSet.from_table(pd.DataFrame({"id": ["a"], "path": ["s1.png"]}), label="kind", folder=folder)


# arrays


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1), (4, 1, 5, 6), (4, 5, 6, 3), (4, 3, 5, 6)])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float64"])
def test_array_layouts(shape: tuple[int, ...], kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape).astype(kind)
    known = values[:, None] if values.ndim == 3 else values
    known = np.moveaxis(known, 3, 1) if known.shape[3] in (1, 3) else known
    for array in (values, torch.from_numpy(values)):
        stimuli = StimulusSet.from_array(array, list("abcd"))
        assert stimuli.pixels.dtype == (torch.float32 if "float" in kind else torch.uint8)
        assert (stimuli.pixels.numpy() == known).all()
        assert stimuli.preprocessing == Preprocessing((5, 6), known.shape[1])


def test_array_is_copied() -> None:
    values = np.zeros((3, 2, 2), dtype=np.uint8)
    stimuli = StimulusSet.from_array(values, list("abc"))
    values += 9
    assert int(stimuli.pixels.sum()) == 0


def test_array_resized_and_turned_to_other_channels() -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3), dtype=np.uint8)
    stimuli = StimulusSet.from_array(values, ["a", "b"], size=(4, 5), channels=1)
    known = Image.fromarray(values[1]).convert("L").resize((5, 4), Image.Resampling.BILINEAR)
    assert (stimuli.pixels[1, 0].numpy() == np.asarray(known)).all()
    colour = StimulusSet.from_array(values[..., 0].astype(float), ["a", "b"], channels=3, mean=[0, 0, 0])
    assert (colour.pixels[:, 2].numpy() == values[..., 0]).all()
    with pytest.raises(NeurordlError, match="an array of floats is not cropped, resized"):
        StimulusSet.from_array(values.astype(float), ["a", "b"], size=4)


@pytest.mark.parametrize(
    "array, said",
    [
        (np.zeros((3, 4)), r"its shape is \(3, 4\)"),
        (np.zeros((3, 3, 3, 3)), "no other axis like it"),
        (np.zeros((3, 4, 4, 2)), "C of 1 or 3"),
        (np.zeros((0, 4, 4)), r"its shape is \(0, 4, 4\)"),
        (np.full((3, 4, 4), 256), "reach from 256 to 256"),
        (np.full((3, 4, 4), np.nan), "finite floats"),
        (np.zeros((3, 4, 4), dtype=bool), "are bool"),
        (np.zeros((3, 4, 4), dtype=object), "are object"),
    ],
)
def test_wrong_arrays(array: Any, said: str) -> None:
    with pytest.raises(NeurordlError, match=said):
        StimulusSet.from_array(array, ["a", "b", "c"])


def test_wrong_ids_and_labels_of_arrays() -> None:
    array = np.zeros((3, 4, 4), dtype=np.uint8)
    with pytest.raises(NeurordlError, match="'a' occurs more than once"):
        StimulusSet.from_array(array, ["a", "b", "a"])
    with pytest.raises(NeurordlError, match="2 ids but 3 images"):
        StimulusSet.from_array(array, ["a", "b"])
    with pytest.raises(NeurordlError, match="3 ids but 2 labels"):
        StimulusSet.from_array(array, ["a", "b", "c"], labels=[0, 1])
    with pytest.raises(NeurordlError, match=r"stimuli have no label .blank or n/a.: b;"):
        StimulusSet.from_array(array, ["a", "b", "c"], labels=np.array([0, None, 1]))
    with pytest.raises(NeurordlError, match="indexed by their ids"):
        StimulusSet(("a", "b"), torch.zeros(2, 1, 2, 2), Preprocessing(), table=pd.DataFrame({"x": [1, 2]}))


@pytest.mark.parametrize(
    "labels", [[2, 0, 1], np.array([2, 0, 1]), torch.tensor([2, 0, 1]), ["c10", "c1", "c9"]]
)
def test_labels_of_arrays(labels: Any) -> None:
    stimuli = numbered(3, labels=labels)
    assert stimuli.labels is not None
    assert stimuli.labels.dtype == torch.int64
    assert stimuli.labels.tolist() == [2, 0, 1]
    assert stimuli.table["label"].tolist() == list(labels)


# what a network gets


@pytest.mark.parametrize(
    "index", [None, [2, 0], np.array([2, 0]), torch.tensor([2, 0]), slice(1, None), range(2), []]
)
def test_images(index: Any) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 5), dtype=np.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    stimuli = StimulusSet.from_array(values, list("abc"), mean=mean, std=std)
    scaled = (values / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    images = stimuli.images(index)
    rows = index if isinstance(index, slice) else [0, 1, 2] if index is None else [int(i) for i in index]
    known = scaled[rows] if rows else scaled[:0]
    assert images.dtype == torch.float32
    assert images.shape == known.shape
    assert np.allclose(images.numpy(), known, atol=1e-6)
    assert (stimuli.pixels.numpy() == values).all()


def test_images_by_mask_and_of_floats() -> None:
    values = np.random.default_rng(0).normal(size=(3, 2, 2))
    stimuli = StimulusSet.from_array(values, list("abc"), mean=[1], std=[2])
    kept = stimuli.pixels.clone()
    assert np.allclose(stimuli.images([True, False, True]).numpy()[:, 0], (values[[0, 2]] - 1) / 2, atol=1e-6)
    stimuli.images().add_(5)
    stimuli.images(slice(None)).add_(5)
    assert torch.equal(stimuli.pixels, kept)


def test_preprocessing_goes_through_json(folder: Path) -> None:
    prepared = Preprocessing(np.int64(8), 1, (0.5,), (0.25,))  # type: ignore[arg-type]
    assert prepared.size == (8, 8)
    again = Preprocessing.from_dict(json.loads(json.dumps(prepared.as_dict())))
    assert again == prepared
    stimuli = StimulusSet.from_folder(folder, **again.as_dict())
    assert stimuli.preprocessing == prepared
    assert StimulusSet.from_folder(folder).preprocessing == Preprocessing((4, 6), 3)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"size": 0}, "size=.*: expected one or two positive whole numbers"),
        ({"size": (3, 4, 5)}, "size=.*: expected one or two positive whole numbers"),
        ({"size": 3.5}, "size=.*: expected one or two positive whole numbers"),
        ({"size": "32"}, "size=.*: expected one or two positive whole numbers"),
        ({"size": (8, -8)}, "size=.*: expected one or two positive whole numbers"),
        ({"channels": 4}, "channels=4: expected 1 .gray. or 3"),
        ({"mean": (0.5,)}, "mean=.*: expected 3 numbers, or 'imagenet'"),
        ({"std": "imagnet"}, "std='imagnet': expected 3 numbers, or 'imagenet'"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean=nan: expected a number"),
        ({"std": (0.5, 0, 0.5)}, "std=0.0: expected a number above 0"),
        ({"crop": 0.5}, "crop=0.5 needs size="),
        ({"crop": 0, "size": 8}, "crop=0: expected a number above 0 and of at most 1"),
        ({"crop": 1.5, "size": 8}, "crop=1.5: expected a number above 0 and of at most 1"),
        ({"scale": 2}, "preprocessing='scale': expected one of 'size'"),
    ],
)
def test_wrong_preprocessing(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(NeurordlError, match=said):
        Preprocessing.from_dict(wrong)


# parts


def test_subset_in_the_order_asked_for() -> None:
    stimuli = numbered(5, labels=[0, 1, 2, 3, 4])
    part = stimuli.subset(["s3", "s0"])
    assert part.ids == ("s3", "s0")
    assert part.pixels.flatten().tolist() == [3, 0]
    assert part.labels is not None
    assert part.labels.tolist() == part.table["label"].tolist() == [3, 0]
    with pytest.raises(NeurordlError, match="'s9'"):
        stimuli.subset(["s3", "s9"])
    with pytest.raises(NeurordlError, match="must be unique"):
        stimuli.subset(["s3", "s3"])


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(12, 60),
    fraction=st.floats(0.25, 0.75),
    seed=st.integers(0, 2**32),
    stratify=st.sampled_from([None, "label", "kind"]),
    random=st.randoms(),
)
def test_split_does_not_depend_on_order(
    n: int, fraction: float, seed: int, stratify: str | None, random: Any
) -> None:
    kinds = [random.choice("abcde") for _ in range(n)]
    table = pd.DataFrame({"id": [f"s{i}" for i in range(n)], "kind": kinds})
    stimuli = numbered(n, labels=[i % 3 for i in range(n)], table=table)
    train, held_out = stimuli.split(fraction, seed, stratify)
    assert train.held_out_ids == held_out.ids
    assert held_out.held_out_ids == ()
    assert sorted(train.ids + held_out.ids) == sorted(stimuli.ids)
    assert len(held_out) == int(n * fraction + 0.5)
    for part in (train, held_out):
        assert part.ids == tuple(i for i in stimuli.ids if i in set(part.ids))  # in the given order
        assert [f"s{int(x)}" for x in part.pixels.flatten()] == list(part.ids)
    other = stimuli.subset(random.sample(stimuli.ids, n))
    again, away = other.split(fraction, seed, stratify)
    assert set(again.ids) == set(train.ids)
    assert again.ids == tuple(i for i in other.ids if i in set(train.ids))
    assert set(away.ids) == set(held_out.ids)
    for column in (stratify,) if stratify else ():
        share = len(held_out) / n
        counts = Counter(held_out.table[column])
        assert all(abs(counts[k] - share * m) < 1 for k, m in Counter(stimuli.table[column]).items())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(12, 40), folds=st.integers(2, 4), seed=st.integers(0, 99), random=st.randoms())
def test_folds_hold_each_stimulus_out_once(n: int, folds: int, seed: int, random: Any) -> None:
    stimuli = numbered(n, labels=[i % 3 for i in range(n)])
    parts = stimuli.folds(folds, seed, "label")
    assert sorted(i for _, held_out in parts for i in held_out.ids) == sorted(stimuli.ids)
    for train, held_out in parts:
        assert train.held_out_ids == held_out.ids
        assert not set(train.ids) & set(held_out.ids)
        counts = Counter(held_out.table["label"])
        assert all(abs(counts[k] - n / 3 / folds) < 2 for k in range(3))
    sizes = [len(held_out) for _, held_out in parts]
    assert max(sizes) - min(sizes) <= 1
    other = stimuli.subset(random.sample(stimuli.ids, n)).folds(folds, seed, "label")
    assert [set(held_out.ids) for _, held_out in other] == [set(held_out.ids) for _, held_out in parts]


def test_seeds_draw_differently_and_evenly() -> None:
    stimuli = numbered(20)
    drawn = [set(stimuli.split(0.25, seed)[1].ids) for seed in range(400)]
    assert len({frozenset(ids) for ids in drawn}) > 380  # of 15,504; uniform draws give 395
    counts = Counter(name for ids in drawn for name in ids)
    assert max(abs(counts[name] - 100) for name in stimuli.ids) < 40  # 100 each, standard deviation 8.7


def test_split_by_ids() -> None:
    train, held_out = numbered(8).split(["s6", "s1", "s3"])
    assert held_out.ids == ("s1", "s3", "s6")
    assert train.held_out_ids == held_out.ids
    with pytest.raises(NeurordlError, match="1 of 3 ids of the held-out part are not in the stimuli: 'x'"):
        numbered(8).split(["s6", "s1", "x"])


def test_a_second_split_remembers_the_first() -> None:
    train, held_out = numbered(12).split(0.25, seed=1)
    fitted, validation = train.split(0.34, seed=2)
    assert set(fitted.held_out_ids) == set(held_out.ids) | set(validation.ids)
    assert train.subset(train.ids[:3]).held_out_ids == held_out.ids
    assert held_out.held_out_ids == validation.held_out_ids == ()


@pytest.mark.parametrize("n, share", [(2, 0.5), (5, 0.5), (9, 0.25), (10, 0.9)])
def test_sets_too_small_to_split(n: int, share: float) -> None:
    with pytest.raises(NeurordlError, match=f"{n} stimuli cannot be split .* at least 3"):
        numbered(n).split(share)


def test_sets_too_small_for_folds() -> None:
    with pytest.raises(NeurordlError, match="at least 3"):
        numbered(11).folds(4)
    with pytest.raises(NeurordlError, match="n=1: expected a whole number of at least 2"):
        numbered(11).folds(1)


@pytest.mark.parametrize("wrong", [0, 1, 1.5, -0.1, float("nan"), True, 5])
def test_wrong_fractions(wrong: float) -> None:
    with pytest.raises(NeurordlError, match=r"held_out=.*: expected a number above 0 and below 1"):
        numbered(12).split(wrong)


def test_wrong_strata() -> None:
    table = pd.DataFrame({"id": [f"s{i}" for i in range(12)], "kind": ["a"] * 11 + [None]})
    stimuli = numbered(12, table=table)
    with pytest.raises(
        NeurordlError, match="no column 'sort': its columns are kind; choose another stratify="
    ):
        stimuli.split(stratify="sort")
    with pytest.raises(NeurordlError, match="stimulus 's11' has no 'kind'"):
        stimuli.split(stratify="kind")
    with pytest.raises(NeurordlError, match="no column 'label'"):
        stimuli.split(stratify="label")
    with pytest.raises(NeurordlError, match="a sequence of strings"):
        stimuli.split("s1")


def test_checksum_sees_ids_pixels_labels_and_order() -> None:
    sets = [
        numbered(4),
        numbered(4, labels=[0, 1, 2, 3]),
        numbered(4, labels=[0, 1, 2, 2]),
        numbered(4).subset(["s1", "s0", "s2", "s3"]),
        StimulusSet.from_array(np.zeros((4, 1, 1), dtype=np.uint8), ["s0", "s1", "s2", "s3"]),
    ]
    assert len({one.sha256 for one in sets}) == len(sets)
    assert numbered(4).sha256 == sets[0].sha256


def test_a_set_is_immutable_and_has_a_short_repr() -> None:
    stimuli = numbered(4, labels=[0, 1, 1, 1], source="here")
    assert repr(stimuli) == "StimulusSet(4 stimuli, 1 x 1 x 1, 2 classes, source='here')"
    with pytest.raises(AttributeError):
        stimuli.ids = ("a",)  # type: ignore[misc]


def test_classes_give_another_set_the_same_numbers() -> None:
    pixels = np.zeros((3, 4, 4), dtype=np.uint8)
    train = StimulusSet.from_array(pixels, ["a", "b", "c"], labels=["dog", "cat", "emu"])
    assert train.classes == ("cat", "dog", "emu")
    assert train.subset(["c"]).classes == train.classes
    test = StimulusSet.from_array(pixels[:2], ["d", "e"], labels=["emu", "dog"], classes=train.classes)
    assert test.labels.tolist() == [2, 1]
    with pytest.raises(NeurordlError, match=r"label 'yak' is not among the classes .*name all"):
        StimulusSet.from_array(pixels[:1], ["f"], labels=["yak"], classes=train.classes)
    for labels in (["dog"], [0]):  # the second place of a name would be an output without images
        with pytest.raises(NeurordlError, match="classes= names 'dog' twice"):
            StimulusSet.from_array(pixels[:1], ["f"], labels=labels, classes=["dog", "dog", "emu"])
    assert StimulusSet.from_array(pixels, ["a", "b", "c"], labels=[0, 5, 1]).classes is None
    named = StimulusSet.from_array(pixels, ["a", "b", "c"], labels=[2, 0, 2], classes=train.classes)
    assert named.labels.tolist() == [2, 0, 2]
    assert named.classes == train.classes
    for label in (-1, 3):
        with pytest.raises(NeurordlError, match=rf"labels run from .*{label}.* but classes= has 3 names"):
            StimulusSet.from_array(pixels, ["a", "b", "c"], labels=[label, 1, 1], classes=train.classes)


def test_draw_takes_classes_alike() -> None:
    labels = [0] * 10 + [1] * 3 + [2]
    stimuli = StimulusSet.from_array(
        np.zeros((14, 2, 2), np.uint8), [f"s{k}" for k in range(14)], labels=labels
    )
    for n, counts in ((3, [1, 1, 1]), (6, [3, 2, 1]), (9, [5, 3, 1]), (14, [10, 3, 1])):
        drawn = stimuli.draw(n, seed=1)
        assert np.bincount(drawn.labels).tolist() == counts
        assert list(drawn.ids) == [stimulus for stimulus in stimuli.ids if stimulus in drawn.ids]
        assert drawn.source.endswith(f"{n} of 14 drawn by seed 1")
    assert set(stimuli.subset(stimuli.ids[::-1]).draw(6, seed=1).ids) == set(stimuli.draw(6, seed=1).ids)
    assert stimuli.draw(6, seed=1).ids != stimuli.draw(6, seed=2).ids
    for n in (2, 15):
        with pytest.raises(NeurordlError, match=f"{n} cannot be drawn of 14 stimuli in 3 classes"):
            stimuli.draw(n)
