"""Released image files: small ones in each format, written here."""

import io
import pickle
import struct

import numpy as np
import pytest
import torch

from torchstu.data.files import DataError
from torchstu.data.lra_images import lra_pathfinder, sequential_cifar
from torchstu.data.sequences import collate

COUNT = 30


@pytest.fixture
def cifar(tmp_path):
    rng = np.random.default_rng(0)
    records = {}
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        records[name] = rng.integers(256, size=(4, 3073)).astype(np.uint8)
        records[name][:, 0] %= 10
        (tmp_path / f"{name}.bin").write_bytes(records[name].tobytes())
    return tmp_path, records


def all_of(data):
    for part in (data.train, data.validation, data.test):
        yield from (part[i] for i in range(len(part)))


def test_cifar_in_colour_is_the_file(cifar):
    folder, records = cifar
    data = sequential_cifar(folder=folder, colour=True, validation=3)
    assert (data.inputs, data.d_in, data.d_out) == ("pixels", 3, 10)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [17, 3, 4]
    for i, record in enumerate(records["test_batch"]):
        pixels, label = data.test[i]
        assert label == record[0]
        assert pixels[33].tolist() == [record[1 + 33], record[1025 + 33], record[2049 + 33]]  # second row, second column
    fitted = sorted(bytes(u.T.numpy().tobytes()) for u, _ in list(all_of(data))[:20])
    assert fitted == sorted(record[1:].tobytes() for n in range(1, 6) for record in records[f"data_batch_{n}"])


def test_cifar_in_grey_weighs_the_colours_as_itu_r_601_does(cifar):
    folder, records = cifar
    pixels, _ = sequential_cifar(folder=str(folder), validation=3).test[1]
    red, green, blue = records["test_batch"][1, 1:].reshape(3, 1024).astype(float)
    assert pixels.shape == (1024, 1)
    assert pixels.dtype == torch.uint8
    assert np.abs(pixels[:, 0].numpy() - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.5 + 1e-9


def test_cifar_that_is_missing_pickled_or_damaged(cifar, tmp_path):
    folder, _ = cifar
    with pytest.raises(DataError, match=r"nowhere/data_batch_1\.bin: no such file; it must be of the binary version: CIFAR-10"):
        sequential_cifar(folder=tmp_path / "nowhere")
    (folder / "data_batch_2.bin").rename(folder / "data_batch_2")
    with pytest.raises(DataError, match=r"data_batch_2\.bin: no such file; the files there are of the Python version, pickles"):
        sequential_cifar(folder=folder)
    (folder / "data_batch_2").rename(folder / "data_batch_2.bin")
    (folder / "test_batch.bin").write_bytes(b"\x01" * 3074)
    with pytest.raises(DataError, match=r"test_batch\.bin: 3074 bytes; it must be a multiple of 3073"):
        sequential_cifar(folder=folder)
    (folder / "test_batch.bin").write_bytes(b"\x0a" * 3073)
    with pytest.raises(DataError, match="image 1: label 10; it must be at most 9"):
        sequential_cifar(folder=folder)


def png(number, size=32):
    from PIL import Image

    pixels = np.full((size, size), number, dtype=np.uint8)
    pixels[0, 1] = 255 - number
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def check_pathfinder(data, labels):
    """All images of ``labels``, each once, with its label, in three parts."""
    assert (data.inputs, data.d_in, data.d_out, data.task) == ("pixels", 1, 2, "classification")
    tenth = len(labels) // 10
    assert [len(data.train), len(data.validation), len(data.test)] == [len(labels) - 2 * tenth, tenth, tenth]
    seen = {}
    for pixels, label in all_of(data):
        assert pixels.shape == (1024, 1)
        assert pixels.dtype == torch.uint8
        assert int(pixels[1]) == 255 - int(pixels[0])
        seen[int(pixels[0])] = int(label)
    assert seen == labels
    assert collate([data.train[0], data.train[1]]).inputs.shape == (2, 1024, 1)


def write_tree(root, lines_of=lambda lines: "".join(" ".join(line) + "\n" for line in lines).encode()):
    """As released: images and lists in two batches; one image is an empty file."""
    labels = {number: number % 3 % 2 for number in range(COUNT) if number != 4}
    for batch in range(2):
        (root / "imgs" / str(batch)).mkdir(parents=True)
        (root / "metadata").mkdir(exist_ok=True)
        lines = []
        for place in range(15):
            number, name = 15 * batch + place, f"sample_{place}.png"
            (root / "imgs" / str(batch) / name).write_bytes(b"" if number == 4 else png(number))
            lines.append([f"imgs/{batch}", name, str(place), str(number % 3 % 2), "1.0", "14", "4", "2", "0.5", "1", "1"])
        (root / "metadata" / f"{batch}.npy").write_bytes(lines_of(lines))
    return labels


def as_array(lines):
    file = io.BytesIO()
    np.save(file, np.array(lines))
    return file.getvalue()


@pytest.mark.parametrize("form", ["text", "array of strings"])
def test_pathfinder_from_png_files(tmp_path, form):
    folder = tmp_path / "pathfinder32"
    root = folder / "curv_contour_length_14"
    labels = write_tree(root, as_array) if form == "array of strings" else write_tree(root)
    check_pathfinder(lra_pathfinder(folder=folder), labels)
    first = [lra_pathfinder(folder=folder, seed=seed).train[0][0] for seed in (0, 0, 1, 2)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2]) or not torch.equal(first[0], first[3])


def crc32c(data):
    """By polynomial division: bits reversed, x^32 + … = 0x11EDC6F41."""
    bits = [byte >> place & 1 for byte in data for place in range(8)] + [0] * 32
    for place in range(32):
        bits[place] ^= 1
    for place in range(len(bits) - 32):
        if bits[place]:
            for power in range(33):
                bits[place + power] ^= 0x11EDC6F41 >> (32 - power) & 1
    return sum((bit ^ 1) << place for place, bit in enumerate(bits[-32:]))


def varint(value):
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(image, label, packed=True):
    number = field(1, varint(label)) if packed else varint(1 << 3) + varint(label)
    features = {b"image": field(1, field(1, image)), b"label": field(3, number), b"weight": field(2, field(1, b"\0\0\x80?"))}
    return field(1, b"".join(field(1, field(1, name) + field(2, value)) for name, value in features.items()))


def record(data):
    length = struct.pack("<Q", len(data))

    def masked(part):
        crc = crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    return length + masked(length) + data + b"\0\0\0\0"  # the checksum of the data is not read


def write_records(folder, name="pathfinder32-hard.tfrecord"):
    folder.mkdir(parents=True)
    labels = {}
    for shard in range(2):
        records = []
        for number in range(shard * 15, shard * 15 + 15):
            empty = number == 4
            labels[number] = number % 3 % 2
            records.append(record(example(b"" if empty else png(number), labels[number], packed=shard == 0)))
        (folder / f"{name}-0000{shard}-of-00002").write_bytes(b"".join(records))
    del labels[4]
    return labels


def test_the_checksum_here_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("version", ["", "1.0.0"])
def test_pathfinder_from_tfds_files(tmp_path, version):
    labels = write_records(tmp_path / "pathfinder32" / version)
    check_pathfinder(lra_pathfinder(folder=tmp_path / "pathfinder32"), labels)
    with pytest.raises(DataError, match=r"neither curv_contour_length_9/metadata/\*\.npy nor \*-intermediate\.tfrecord\*"):
        lra_pathfinder(folder=tmp_path / "pathfinder32", difficulty="medium")


def test_damaged_records(tmp_path):
    folder = tmp_path / "pathfinder32"
    write_records(folder)
    path = folder / "pathfinder32-hard.tfrecord-00001-of-00002"
    whole = path.read_bytes()
    for content, message in [
        (whole[:-30], "record 15: cut off after"),
        (b"\x01" + whole[1:], "record 1: its length is damaged"),
        (whole[:7], "record 1: its length is damaged"),
        (record(b"\x0f\x01"), "record 1: is no tf.train.Example"),
        (record(b"\x0a\x09a"), r"is no tf.train.Example \(field 1 has 9 bytes; there are 1\)"),
        (record(example(png(1), 2)), "record 1: has image, label; it must have image, and label 0 or 1"),
        (record(field(1, b"")), "record 1: has nothing; it must have image"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            lra_pathfinder(folder=folder)


def test_pathfinder_that_is_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r"one must be there: pathfinder32 or pathfinder128 in lra_release\.gz"):
        lra_pathfinder(folder=tmp_path)
    root = tmp_path / "curv_baseline"
    write_tree(root)
    metadata = root / "metadata" / "0.npy"
    good = metadata.read_bytes()

    def refuse(content, message):
        metadata.write_bytes(content)
        with pytest.raises(DataError, match=message):
            lra_pathfinder(folder=tmp_path, difficulty="easy")
        metadata.write_bytes(good)

    refuse(b"imgs/0 sample_0.png\n", "line 1: 'imgs/0 sample_0.png'; it must be folder, file, number, label 0 or 1")
    refuse(b"imgs/0 sample_0.png 0 2 1\n", "line 1")
    refuse(b"../secret sample_0.png 0 1 1\n", "line 1: '../secret/sample_0.png'; it must be a file below")
    refuse(b"/etc passwd 0 1 1\n", "it must be a file below")
    refuse(b"imgs/0 sample_99.png 0 1 1\n", r"sample_99\.png: no such file; line 1 of")
    objects = io.BytesIO()
    np.save(objects, np.array([["imgs/0", 1]], dtype=object), allow_pickle=True)
    refuse(objects.getvalue(), "holds pickled objects, which are not read")

    (root / "imgs" / "0" / "sample_1.png").write_bytes(png(1)[:40])
    with pytest.raises(DataError, match=r"sample_1\.png: is no readable PNG image"):
        list(all_of(lra_pathfinder(folder=tmp_path, difficulty="easy")))
    (root / "imgs" / "0" / "sample_1.png").write_bytes(png(1, size=16))
    with pytest.raises(DataError, match=r"pixels; it must have (32|16)², as the first image"):
        list(all_of(lra_pathfinder(folder=tmp_path, difficulty="easy")))


def test_too_few_images(tmp_path):
    root = tmp_path / "curv_baseline"
    write_tree(root)
    for path in sorted((root / "metadata").iterdir()):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    with pytest.raises(DataError, match="8 easy images; there must be at least 10 to split"):
        lra_pathfinder(folder=tmp_path, difficulty="easy")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("was unpickled",))

    root = tmp_path / "curv_contour_length_14"
    write_tree(root)
    (root / "metadata" / "0.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="line 1"):
        lra_pathfinder(folder=tmp_path)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (sequential_cifar, {"folder": 3}, "folder: 3; it must be a path"),
        (sequential_cifar, {"folder": "x", "colour": "grey"}, "colour: 'grey'; it must be True or False"),
        (sequential_cifar, {"folder": "x", "validation": 0}, "validation: 0"),
        (lra_pathfinder, {"folder": None}, "folder: None; it must be a path"),
        (lra_pathfinder, {"folder": "x", "difficulty": "intermediate"}, "difficulty: 'intermediate'; it must be one of 'easy'"),
    ],
)
def test_bad_arguments(make, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**options)


def test_validation_leaves_images_to_train_on(cifar):
    with pytest.raises(ValueError, match=r"validation: 20; .* has 20 images to train on, it must be fewer"):
        sequential_cifar(folder=cifar[0], validation=20)
