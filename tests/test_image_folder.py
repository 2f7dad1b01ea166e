"""Folders of images: both layouts, resizing, and what damaged ones get."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.data.image_folder import ImageFolder
from gossamer.errors import DataError, ExperimentError


def painted(folder: Path, described: bool) -> np.ndarray[Any, Any]:
    """Two classes of three 4x6 images in train/, one of each in test/; the pixels [8, 3, 4, 6] in reading order."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 6, 3), dtype=np.uint8)
    number = 0
    for part, count in (("train", 3), ("test", 1)):
        lines = []
        for label in ("cat", "dog"):
            for _ in range(count):
                name = f"{number}.png" if described else f"{label}/{number}.png"
                path = folder / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.fromarray(pixels[number]).save(path)
                lines.append(json.dumps({"file_name": name, "label": label, "by": f"p{number % 2}"}))
                number += 1
        if described:
            (folder / part / "metadata.jsonl").write_text("\n".join(lines))
    return pixels.transpose(0, 3, 1, 2)


def test_both_layouts_of_an_image_folder_are_read(tmp_path: Path) -> None:
    for described in (False, True):
        folder = tmp_path / f"described-{described}"
        pixels = painted(folder, described)
        data = ImageFolder(folder=str(folder)).load(None)
        np.testing.assert_array_equal(np.concatenate([data.train.inputs, data.test.inputs]), pixels)
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.classes == ("cat", "dog")
        assert ImageFolder(folder=folder.name).load(tmp_path).test.labels.tolist() == [0, 1]
    grouped = ImageFolder(folder=str(folder), group="by").load(None)
    assert grouped.group_names == ("p0", "p1")
    assert grouped.train.groups is not None
    assert grouped.train.groups.tolist() == [0, 1, 0, 1, 0, 1]


def test_images_can_be_resized_made_grey_and_pinned(tmp_path: Path) -> None:
    painted(tmp_path, False)
    assert ImageFolder(folder=str(tmp_path), size=8).load(None).train.inputs.shape == (6, 3, 8, 8)
    assert ImageFolder(folder=str(tmp_path), colour="grey").load(None).train.inputs.shape == (6, 1, 4, 6)
    with pytest.raises(DataError, match="SHA-256 of its images is ") as error:
        ImageFolder(folder=str(tmp_path), sha256="0" * 64).load(None)
    found = re.findall("[0-9a-f]{64}", str(error.value))[0]
    assert len(ImageFolder(folder=str(tmp_path), sha256=found).load(None).train) == 6


def test_damaged_image_folders_are_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    painted(tmp_path / "a", False)
    path = tmp_path / "a/train/cat/1.png"
    content = path.read_bytes()
    plug = ImageFolder(folder="a")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"1\.png' is truncated or damaged"):
        plug.load(tmp_path)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png' is truncated or damaged"):
        plug.load(tmp_path)
    image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"1\.png' is 5x5 pixels, but '0\.png' is 6x4; set data\.size"):
        plug.load(tmp_path)
    assert plug.model_copy(update={"size": 4}).load(tmp_path).train.inputs.shape == (6, 3, 4, 4)
    with pytest.raises(ExperimentError, match="needs a metadata"):
        ImageFolder(folder="a", group="by").load(tmp_path)
    shutil.rmtree(tmp_path / "a/test")
    with pytest.raises(DataError, match=r"a/test' is missing; data\.folder = 'a' must hold"):
        plug.load(tmp_path)
    painted(tmp_path / "b", True)
    (tmp_path / "b/train/2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png' is missing; .*metadata\.jsonl"):
        ImageFolder(folder="b").load(tmp_path)
    (tmp_path / "b/train/metadata.jsonl").write_text('{"file_name": "0.png"}')
    with pytest.raises(DataError, match="has no 'label' in record 1"):
        ImageFolder(folder="b").load(tmp_path)


@pytest.mark.parametrize(("name", "counts", "classes"), [("eurosat", (2000, 500), 10), ("rsicd", (1200, 300), 30)])
def test_satellite_images(name: str, counts: tuple[int, int], classes: int, data_folder: Path) -> None:
    if not (data_folder / name).is_dir():
        pytest.skip(f"GOSSAMER_DATA has no folder {name}")
    data = ImageFolder(folder=name).load(data_folder)
    assert (len(data.train), len(data.test)) == counts
    assert data.train.inputs.shape[1:] == (3, 64, 64)
    assert np.bincount(data.train.labels).tolist() == [counts[0] // classes] * classes
    assert np.bincount(data.test.labels).tolist() == [counts[1] // classes] * classes
