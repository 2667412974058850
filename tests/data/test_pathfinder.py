"""Pathfinder images: labels and laws read from the geometry and from the pixels, without a look at how they were made."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from torchstu.data.pathfinder import FILE_IMAGES, PathfinderImages, _helpers, make_missing, pathfinder
from torchstu.data.pathfinder_scenes import BLOCK, CONTOUR, draw, geometry
from torchstu.data.sequences import collate

COUNT = 2 * BLOCK
INDICES = (0, 1, 2, 3, 4, 5, BLOCK, BLOCK + 1, BLOCK + 2, BLOCK + 3)
SETS = [(32, "easy"), (32, "hard"), (128, "medium")]
MARGINS = {32: (1, 1), 128: (2, 3)}  # of the first block of images, and of the second


@pytest.fixture(scope="module", params=SETS, ids=lambda which: f"{which[0]}-{which[1]}")
def images(request):
    size, difficulty = request.param
    return PathfinderImages(COUNT, size, difficulty, 3, 0, Path())


def made(count, size, difficulty, seed, folder):
    """Training images, without those of the other parts."""
    images = PathfinderImages(count, size, difficulty, seed, 0, folder)
    for number in images.missing():
        images.make(number)
    return images


def points_along(dashes, count=11):
    share = np.linspace(0, 1, count)[:, None]
    return dashes[:, None, 0] + share * (dashes[:, None, 1] - dashes[:, None, 0])  # (N, count, 2)


def gaps_between(dashes):
    """The distance of each dash to each other one, (N, N)."""
    points = points_along(dashes)
    return np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1).min(axis=(2, 3))


def linked(close):
    """Connected components of a symmetric relation, as a number for each member."""
    label = np.arange(len(close))
    while True:
        lowest = np.where(close, label[None], len(close)).min(axis=1)
        if (lowest == label).all():
            return label
        label = np.minimum(label, lowest)


def test_dashes_no_further_apart_than_a_gap_are_the_contours_and_the_label_follows(images):
    for index in INDICES:
        scene, margin = images.scene(index), MARGINS[images.size][index // BLOCK]
        component = linked(gaps_between(scene.dashes) <= 2 * margin + 1e-3)
        assert len(set(zip(component, scene.contours, strict=True))) == len(set(scene.contours)) == len(set(component))
        nearest = [np.linalg.norm(scene.dashes - marker, axis=-1).min(axis=1).argmin() for marker in scene.markers]
        assert scene.label == (component[nearest[0]] == component[nearest[1]])


def test_contours_keep_clear_of_each_other_by_more_than_a_gap(images):
    for index in INDICES:
        scene, margin = images.scene(index), MARGINS[images.size][index // BLOCK]
        gaps = gaps_between(scene.dashes)
        others = scene.contours[:, None] != scene.contours
        assert gaps[others].min() > 2 * margin + 0.05


def test_markers_are_at_free_ends_of_the_long_contours(images):
    length = CONTOUR[images.difficulty]
    for index in INDICES:
        scene = images.scene(index)
        assert [(scene.contours == long).sum() for long in (0, 1)] == [length, length]
        start, end = scene.markers
        starts, ends = (
            [scene.dashes[0, 0], scene.dashes[length, 0]],
            [scene.dashes[length - 1, 1], scene.dashes[2 * length - 1, 1]],
        )
        begun = [i for i in (0, 1) if np.array_equal(starts[i], start)]
        ended = [i for i in (0, 1) if np.array_equal(ends[i], end)]
        assert len(begun) == len(ended) == 1
        assert scene.label == (begun == ended)


def test_contours_have_the_published_steps_and_bends(images):
    for index in (0, 1, BLOCK, BLOCK + 1):
        scene, margin = images.scene(index), MARGINS[images.size][index // BLOCK]
        how = geometry(images.size, images.difficulty, margin)
        vectors = scene.dashes[:, 1] - scene.dashes[:, 0]
        assert np.allclose(np.linalg.norm(vectors, axis=-1), how.dash, atol=1e-4)
        same = scene.contours[1:] == scene.contours[:-1]
        cosine = (vectors[1:] * vectors[:-1]).sum(axis=-1)[same] / how.dash**2
        assert cosine.min() >= np.cos(np.pi / 2 / how.bending) - 0.01  # directions are 1/1024 of a turn
        assert cosine.max() < 1 + 1e-6
        pieces = [(scene.contours == number).sum() for number in range(2, scene.contours.max() + 1)]
        assert set(pieces) <= {0, how.distractor}
        assert 1 <= sum(piece > 0 for piece in pieces) <= how.distractors
        assert scene.dashes.min() >= 1
        assert scene.dashes.max() <= images.size - 1


def test_pixels_show_the_scene(images):
    """Bright on every dash and marker, dark away from all of them."""
    size = images.size
    for index in (0, BLOCK):
        scene = images.scene(index)
        image = draw(scene, size).astype(int)
        middles = np.floor(scene.dashes.mean(axis=1)).astype(int)
        around = [image[row - 1 : row + 2, column - 1 : column + 2].max() for row, column in middles]
        assert min(around) > 90
        marked = np.floor(scene.markers).astype(int)
        assert image[marked[:, 0], marked[:, 1]].min() == 255
        centres = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1).reshape(-1, 1, 2) + 0.5
        lines = np.linalg.norm(centres - points_along(scene.dashes, 6).reshape(1, -1, 2), axis=-1).min(axis=1)
        discs = np.linalg.norm(centres - scene.markers, axis=-1).min(axis=1)
        far = (lines > (1.5 if size == 128 else 1)) & (discs > (4 if size == 128 else 2.5))
        assert far.mean() > 0.4
        assert image.ravel()[far].max() == 0


def test_images_depend_on_seed_part_and_index_only():
    def pixels(index=0, part="train", **options):
        sizes = {"train": 2, "validation": 1, "test": 1, **options}
        return getattr(pathfinder(difficulty="easy", **sizes), part)[index][0]

    same = [pixels(), pixels(train=1)]
    assert torch.equal(*same)
    others = [pixels(1), pixels(seed=1), pixels(part="validation"), pixels(part="test")]
    assert not any(torch.equal(same[0], other) for other in others)
    last = pathfinder(difficulty="easy", train=70, validation=1, test=1).train
    late, first = last[69], last[0]
    assert torch.equal(first[0], same[0])
    assert not torch.equal(first[0], late[0])
    with pytest.raises(IndexError, match="index: 70; it must be from 0 to 69"):
        last[70]


def test_images_stay_what_they_are(tmp_path):
    """A digest of the first images: who trains on a seed gets the same bytes next year."""
    digests = []
    for size, difficulty in ((32, "hard"), (128, "easy")):
        images = made(4, size, difficulty, 0, tmp_path)
        content = b"".join(images[i][0].numpy().tobytes() + bytes([int(images[i][1])]) for i in range(4))
        digests.append(hashlib.sha256(content).hexdigest()[:16])
    assert digests == ["0f8765e35c5d4666", "e39b9811916a51c7"]


def test_images_are_made_once_and_read_by_who_comes_later(monkeypatch):
    sizes = {"difficulty": "easy", "train": FILE_IMAGES + 1, "validation": 1, "test": 1, "seed": 5}
    first = pathfinder(**sizes).train
    assert [first.file(number).name for number in (0, 1)] == ["0-256.bin", "256-257.bin"]
    monkeypatch.setattr(PathfinderImages, "make", None)
    again = pathfinder(**sizes).train
    assert [again[i][1] == first.scene(i).label for i in (0, FILE_IMAGES)] == [True, True]
    assert torch.equal(again[FILE_IMAGES][0].ravel(), torch.from_numpy(draw(first.scene(FILE_IMAGES), 32).ravel()))
    assert len(pathfinder(**sizes | {"train": FILE_IMAGES}).train) == FILE_IMAGES  # a whole file serves any number


def test_a_file_that_is_not_whole_is_made_again(tmp_path, monkeypatch):
    parts = [PathfinderImages(count, 32, "easy", 0, part, tmp_path) for part, count in enumerate((3, 1, 1))]
    images = parts[0]
    assert images.missing() == [0]
    images.make(0)
    path, kept = images.file(0), images.file(0).read_bytes()
    assert (images.missing(), len(kept)) == ([], 3 * 1025)
    path.write_bytes(kept[:-1])
    assert images.missing() == [0]
    make_missing(parts, processes=1)
    assert path.read_bytes() == kept

    def broken(*_):
        raise KeyboardInterrupt

    path.unlink()
    monkeypatch.setattr("torchstu.data.pathfinder.draw", broken)
    with pytest.raises(KeyboardInterrupt):
        make_missing(parts, processes=1)
    assert list(path.parent.iterdir()) == []
    assert images.missing() == [0]


def test_helpers_make_the_same_bytes_and_end_with_the_block(tmp_path):
    """This process makes nothing, so that all files are a helper's; a second helper ends though none of its work is done."""
    parts = [PathfinderImages(count, 32, "easy", 0, part, tmp_path) for part, count in enumerate((3, 1, 1))]
    with _helpers(parts, 1):
        deadline = time.monotonic() + 100
        while any(part.missing() for part in parts) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not any(part.missing() for part in parts)
    own = PathfinderImages(3, 32, "easy", 0, 0, tmp_path / "own")
    own.make(0)
    assert own.file(0).read_bytes() == parts[0].file(0).read_bytes()
    endless = [PathfinderImages(10**6, 32, "hard", 1, part, tmp_path) for part in range(3)]
    start = time.monotonic()
    with _helpers(endless, 1):
        pass
    assert time.monotonic() - start < 60  # to make these takes hours
    assert list(tmp_path.rglob(".*")) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        pathfinder(train=1, validation=1, test=1)


def test_batches_are_pixel_sequences():
    data = pathfinder(difficulty="easy", train=3, validation=1, test=1)
    assert (data.task, data.inputs, data.d_in, data.d_out) == ("classification", "pixels", 1, 2)
    batch = collate([data.train[i] for i in range(3)])
    assert batch.inputs.shape == (3, 1024, 1)
    assert batch.inputs.dtype == torch.uint8
    assert batch.targets.dtype == torch.int64
    assert batch.lengths.tolist() == [1024] * 3


def logistic(features, labels, held):
    """Held-out accuracy of a ridge-penalized logistic regression, by Newton's method."""
    x = (features - features[~held].mean(0)) / (features[~held].std(0) + 1e-9)
    x = np.column_stack([x, np.ones(len(x))])
    w = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-x[~held] @ w))
        gradient = x[~held].T @ (p - labels[~held]) + 10 * w
        w -= np.linalg.solve((x[~held].T * (p * (1 - p))) @ x[~held] + 10 * np.eye(len(w)), gradient)
    return ((x[held] @ w > 0) == labels[held]).mean()


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_no_short_cut_gives_the_label_away(difficulty, tmp_path):
    """384 images, half held out: by chance within 3 standard deviations of 1/2."""
    images = made(384, 32, difficulty, 1, tmp_path)
    pixels = np.stack([images[i][0].numpy().ravel() for i in range(384)]).astype(float)
    scenes = [images.scene(i) for i in range(384)]
    labels = np.array([scene.label for scene in scenes])
    assert abs(labels.mean() - 0.5) < 3 * 0.5 / 384**0.5
    apart = np.array([np.linalg.norm(scene.markers[0] - scene.markers[1]) for scene in scenes])
    count = np.array([len(scene.dashes) for scene in scenes])
    rows = (pixels > 0).reshape(384, 32, 32)
    simple = [pixels.mean(1), pixels.std(1), (pixels > 0).mean(1), (pixels == 255).mean(1), apart, apart**2, count]
    simple += [rows[:, :16].mean((1, 2)), rows[:, :, :16].mean((1, 2)), rows[:, 8:24, 8:24].mean((1, 2))]
    held = np.arange(384) % 2 == 1
    coarse = pixels.reshape(384, 16, 2, 16, 2).mean((2, 4)).reshape(384, -1)
    for features in (np.column_stack(simple), coarse):
        assert abs(logistic(features, labels, held) - 0.5) < 3 * 0.5 / 192**0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64}, "size: 64; it must be one of 32, 128"),
        ({"difficulty": "extreme"}, "difficulty: 'extreme'; it must be one of 'easy', 'medium', 'hard'"),
        ({"train": 0}, "train: 0"),
        ({"test": 2.5}, "test: 2.5"),
        ({"seed": -1}, "seed: -1"),
        ({"processes": 0}, "processes: 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pathfinder(**options)
