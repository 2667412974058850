"""The tasks of Long Range Arena whose data are images, from folders of released files that the user has: nothing is downloaded.

Nothing is unpickled. Source: Tay et al., arXiv 2011.04006.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.data.files import DataError
from torchstu.data.images import ArrayExamples
from torchstu.data.pathfinder_scenes import CONTOUR, Difficulty
from torchstu.data.sequences import SequenceData
from torchstu.data.tfrecord import Place, example_fields, read_records
from torchstu.extras import require
from torchstu.spectral.priors import positive_int

CIFAR_SOURCE = "CIFAR-10, binary version, cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009)"
PATHFINDER_SOURCE = "pathfinder32 or pathfinder128 in lra_release.gz of google-research/long-range-arena (arXiv 2011.04006)"
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_RECORD = 1 + 3 * 1024  # label, then red, green and blue, row after row
_GREY = np.array([299, 587, 114])  # ITU-R 601, in thousandths
_FOLDERS = {"easy": "curv_baseline", "medium": "curv_contour_length_9", "hard": "curv_contour_length_14"}
_SPLITS = {"easy": "easy", "medium": "intermediate", "hard": "hard"}


def sequential_cifar(*, folder: str | Path, colour: bool = False, validation: int = 5_000, seed: int = 0) -> SequenceData:
    """CIFAR-10 pixel by pixel, row after row, 1024 steps: grey as in the arena's Image task, or three colours a step.

    Args:
        folder: ``cifar-10-batches-bin`` of ``cifar-10-binary.tar.gz`` (www.cs.toronto.edu/~kriz/cifar.html), with
            ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``.
        colour: whether a pixel is red, green and blue (d_in = 3); otherwise it is their grey by ITU-R 601.
        validation: images of the training part held out.
        seed: of which are held out.

    Raises:
        DataError: no such file, the pickled version of the data, or a file that is not of the format.
        TypeError, ValueError: another argument that is not as above.
    """
    root = _folder(folder)
    if not isinstance(colour, bool):
        raise TypeError(f"colour: {colour!r}; it must be True or False")
    count, seed = positive_int("validation", validation), positive_int("seed", seed, minimum=0)
    parts = [_read_cifar(root / f"data_batch_{number}.bin", colour) for number in range(1, 6)]
    test = _read_cifar(root / "test_batch.bin", colour)
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if count >= len(images):
        raise ValueError(f"validation: {count}; {root} has {len(images)} images to train on, it must be fewer")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(images))
    return SequenceData(
        name="sequential CIFAR-10" + (" in colour" if colour else ""),
        task="classification",
        inputs="pixels",
        d_in=images.shape[-1],
        d_out=10,
        train=ArrayExamples(images[order[count:]], labels[order[count:]]),
        validation=ArrayExamples(images[order[:count]], labels[order[:count]]),
        test=ArrayExamples(*test),
        source=CIFAR_SOURCE,
        about={"licence": "unknown", "split": f"published test part; validation drawn from the rest, seed {seed}"},
        classes=CIFAR_CLASSES,
    )


def lra_pathfinder(*, folder: str | Path, difficulty: Difficulty = "hard", seed: int = 0) -> SequenceData:
    """Pathfinder (size 32) or Path-X (128) from the released files; `torchstu.data.pathfinder.pathfinder` generates the like.

    Images are read as they are asked for. Empty image files, of which the release has some, are left out. The arena's split
    is not released: here 80% are drawn for training and 10% each for validation and testing.

    Args:
        folder: ``pathfinder32`` or ``pathfinder128`` of ``lra_release.gz`` of google-research/long-range-arena. It has PNG
            files: ``curv_contour_length_14/metadata/0.npy``, which has a line ``imgs/0 sample_0.png 0 1 …`` for each image
            (the fourth word is the label), and ``curv_contour_length_14/imgs/0/sample_0.png``; or TFDS files
            ``*-hard.tfrecord-*``.
        difficulty: "easy", "medium" or "hard": ``curv_baseline``, ``curv_contour_length_9`` or ``_14``; of TFDS files "easy",
            "intermediate" or "hard".
        seed: of the split.

    Raises:
        DataError: no such files, fewer than 10 images, or a file that is not of the format (an image: when it is asked for).
        MissingExtraError: without the extra ``tasks``.
        TypeError, ValueError: another argument that is not as above.
    """
    root = _folder(folder)
    if difficulty not in CONTOUR:
        raise ValueError(f"difficulty: {difficulty!r}; it must be one of {', '.join(map(repr, CONTOUR))}")
    require("tasks", "PIL.Image")
    seed, images = positive_int("seed", seed, minimum=0), _find_pathfinder(root, difficulty)
    if len(images) < 10:
        raise DataError(f"{root}: {len(images)} {difficulty} images; there must be at least 10 to split")
    order, tenth = np.random.Generator(np.random.PCG64(seed)).permutation(len(images)), len(images) // 10
    size = int(np.sqrt(len(_pixels(images[0]))))
    validation, test, train = np.split(order, [tenth, 2 * tenth])
    return SequenceData(
        name=f"LRA Pathfinder-{size} {difficulty}",
        task="classification",
        inputs="pixels",
        d_in=1,
        d_out=2,
        train=FileExamples([images[i] for i in train], size),
        validation=FileExamples([images[i] for i in validation], size),
        test=FileExamples([images[i] for i in test], size),
        source=PATHFINDER_SOURCE,
        about={"licence": "unknown", "split": f"drawn, seed {seed}"},
        classes=("two contours", "one contour"),
    )


class StoredImage(NamedTuple):
    """A PNG image: a file, or a part of one; and its label."""

    path: Path
    place: Place | None
    label: int


class FileExamples:
    """Grey images that are read from their files at each access: `torchstu.data.Examples`."""

    def __init__(self, images: Sequence[StoredImage], size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Pixels (size², 1) uint8 and label ().

        Raises:
            DataError: the file is no image of the size.
        """
        image = self.images[index]
        pixels = _pixels(image)
        if len(pixels) != self.size**2:
            raise DataError(f"{image.path}: {len(pixels)} pixels; it must have {self.size}², as the first image")
        return torch.from_numpy(pixels), torch.tensor(image.label)


def _folder(folder: str | Path) -> Path:
    if not isinstance(folder, (str, Path)):
        raise TypeError(f"folder: {folder!r}; it must be a path")
    return Path(folder)


def _read_cifar(path: Path, colour: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1024, 1 or 3) uint8 and labels (N,)."""
    if not path.is_file():
        pickled = path.with_suffix("").is_file()
        reason = "the files there are of the Python version, pickles, which may run code when read; " if pickled else ""
        raise DataError(f"{path}: no such file; {reason}it must be of the binary version: {CIFAR_SOURCE}")
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if len(content) == 0 or len(content) % _RECORD:
        raise DataError(
            f"{path}: {len(content)} bytes; it must be a multiple of {_RECORD}, a label and 32 · 32 · 3 bytes an image"
        )
    records = content.reshape(-1, _RECORD)
    labels, pixels = records[:, 0], records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
    if labels.max() > 9:
        raise DataError(f"{path}: image {labels.argmax() + 1}: label {labels.max()}; it must be at most 9")
    if not colour:
        pixels = ((pixels @ _GREY + 500) // 1000)[..., None].astype(np.uint8)
    return pixels, labels


def _find_pathfinder(root: Path, difficulty: Difficulty) -> list[StoredImage]:
    lists = sorted((root / _FOLDERS[difficulty] / "metadata").glob("*.npy"), key=lambda path: (len(path.name), path.name))
    if lists:
        found = [image for path in lists for image in _listed(path, root / _FOLDERS[difficulty])]
        return [image for image in found if image.path.stat().st_size]
    pattern = f"*-{_SPLITS[difficulty]}.tfrecord*"
    records = sorted([*root.glob(pattern), *root.glob(f"*/{pattern}")])
    if not records:
        raise DataError(
            f"{root}: neither {_FOLDERS[difficulty]}/metadata/*.npy nor {pattern}; one must be there: {PATHFINDER_SOURCE}"
        )
    return [image for path in records for image in _recorded(path)]


def _listed(path: Path, root: Path) -> list[StoredImage]:
    """What a file of metadata lists: lines of words, or an array of strings as ``numpy.save`` writes it."""
    content = path.read_bytes()
    if content.startswith(b"\x93NUMPY"):
        try:
            rows = np.load(io.BytesIO(content), allow_pickle=False).tolist()
        except ValueError as error:
            raise DataError(f"{path}: holds pickled objects, which are not read; it must be lines of text") from error
    else:
        rows = [line.split() for line in content.decode("utf-8", errors="replace").splitlines() if line.strip()]
    images = []
    for number, row in enumerate(rows, 1):
        words = [str(word) for word in row] if isinstance(row, list) else []
        if len(words) < 4 or words[3] not in ("0", "1"):
            raise DataError(
                f"{path}: line {number}: {' '.join(words)[:80]!r}; it must be folder, file, number, label 0 or 1, …"
            )
        name = PurePosixPath(words[0]) / words[1]
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"{path}: line {number}: {str(name)!r}; it must be a file below {root}")
        if not (root / name).is_file():
            raise DataError(f"{root / name}: no such file; line {number} of {path} lists it")
        images.append(StoredImage(root / name, None, int(words[3])))
    return images


def _recorded(path: Path) -> list[StoredImage]:
    images = []
    for number, (start, data) in enumerate(read_records(path), 1):
        try:
            fields = example_fields(data)
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: record {number}: is no tf.train.Example ({error})") from error
        image, label = fields.get("image"), fields.get("label")
        if not isinstance(image, Place) or label not in (0, 1):
            raise DataError(
                f"{path}: record {number}: has {', '.join(fields) or 'nothing'}; it must have image, and label 0 or 1"
            )
        if image.length:
            images.append(StoredImage(path, Place(start + image.start, image.length), int(label == 1)))
    return images


def _pixels(image: StoredImage) -> np.ndarray:
    """The grey values of a square image, (size², 1) uint8."""
    pillow = require("tasks", "PIL.Image")
    try:
        with image.path.open("rb") as file:
            if image.place is None:
                content = file.read()
            else:
                file.seek(image.place.start)
                content = file.read(image.place.length)
        with pillow.open(io.BytesIO(content), formats=("PNG",)) as picture:
            pixels = np.array(picture.convert("L"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{image.path}: is no readable PNG image ({error})") from error
    if pixels.shape[0] != pixels.shape[1]:
        raise DataError(f"{image.path}: {pixels.shape[0]} x {pixels.shape[1]} pixels; it must be square")
    return pixels.reshape(-1, 1)
