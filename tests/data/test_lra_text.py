"""Released Long Range Arena files, written small by the tests: what is read from them, and what is said of bad ones."""

import re

import numpy as np
import pytest

from torchstu.data.files import DataError
from torchstu.data.listops import evaluate, listops, to_text
from torchstu.data.lra_text import lra_listops, lra_retrieval, lra_text
from torchstu.data.sequences import collate

LISTOPS_ROWS = [
    ("( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) ] )", "9"),
    ("( ( ( [SM 8 ) 5 ) ] )", "3"),
]


def write_listops(folder, rows=LISTOPS_ROWS, ending="\r\n"):
    folder.mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        lines = ["Source\tTarget", *("\t".join(row) for row in rows)]
        (folder / f"basic_{part}.tsv").write_bytes("".join(line + ending for line in lines).encode())
    return folder


def write_reviews(folder, texts=("good", "bad")):
    for part in ("train", "test"):
        for name, text in zip(("pos", "neg"), texts, strict=True):
            (folder / part / name).mkdir(parents=True)
            for number in range(5):
                (folder / part / name / f"{number}_7.txt").write_text(f"{part} {text} {number} é", encoding="utf-8")
    return folder


PAIRS = [
    b'1\tP1\tP2\tfirst text\tsecond "text\n',
    b"0.0\tP1\tP3\tfirst text\t\n",
    b'0\tP2\tP1\tsecond "text\tfirst text\n',
]


def write_pairs(folder, rows=PAIRS):
    folder.mkdir(exist_ok=True)
    for part in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{part}.tsv").write_bytes(b"".join(rows))
    return folder


def text_of(tokens):
    return bytes((tokens - 1).tolist())


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_listops_files(tmp_path, ending):
    data = lra_listops(folder=str(write_listops(tmp_path, ending=ending)))
    for part in (data.train, data.validation, data.test):
        assert [to_text(part[i][0]) for i in range(len(part))] == ["[MAX 2 9 [MIN 4 7 ] ]", "[SM 8 5 ]"]
        assert [int(part[i][1]) for i in range(len(part))] == [9, 3]
    assert (data.d_in, data.d_out, data.task) == (16, 10, "classification")


def test_listops_files_of_generated_expressions_give_them_again(tmp_path):
    made = listops(train=50, validation=1, test=1, min_length=10, max_length=60, max_depth=4)
    rows = [(to_text(made.train[i][0]), str(int(made.train[i][1]))) for i in range(50)]
    read = lra_listops(folder=write_listops(tmp_path, rows))
    assert read.train.values.tobytes() == made.train.values.tobytes()
    assert all(evaluate(to_text(inputs)) == target for inputs, target in (read.test[i] for i in range(50)))
    assert (read.d_in, read.d_out, read.classes) == (made.d_in, made.d_out, made.classes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("[MAX 2 9 ]",), "1 columns; it must have Source and Target"),
        (("[MAX 2 9 ]", "9", "x"), "3 columns"),
        (("[AVG 2 9 ]", "9"), "'[AVG' in Source; it must be one of 0 1"),
        (("[MAX 2 19 ]", "9"), "'19' in Source"),
        (("( )", "9"), "Source is empty"),
        (("[MAX 2 9 ]", "10"), "Target '10'; it must be a digit"),
        (("[MAX 2 9 ]", ""), "Target ''"),
        (("[MAX 2 9 ]", "²"), "Target '²'"),
    ],
)
def test_listops_rows_that_are_not(tmp_path, row, message):
    write_listops(tmp_path, [*LISTOPS_ROWS, row])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'basic_train.tsv'}: row 3: ")) as error:
        lra_listops(folder=tmp_path)
    assert message in str(error.value)


def test_listops_files_without_header_or_rows(tmp_path):
    write_listops(tmp_path, [])
    with pytest.raises(DataError, match=r"basic_train.tsv: has no rows"):
        lra_listops(folder=tmp_path)
    (tmp_path / "basic_train.tsv").write_text("[MAX 1 2 ]\t2\n")
    with pytest.raises(DataError, match=r"its header is '.MAX 1 2 ..t2'; it must be Source and Target"):
        lra_listops(folder=tmp_path)


@pytest.mark.parametrize(
    ("load", "file", "source"),
    [
        (lra_listops, "basic_train.tsv", "listops-1000 in lra_release.gz of google-research/long-range-arena"),
        (lra_text, "train/neg", "Large Movie Review Dataset"),
        (lra_retrieval, "new_aan_pairs.train.tsv", "ACL Anthology Network"),
    ],
)
def test_missing_files_are_named_with_their_source(tmp_path, load, file, source):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=re.escape(f"{folder / file}: no ")) as error:
            load(folder=folder)
        assert source in str(error.value)
        assert "\n" not in str(error.value)
    for wrong in (None, 3, ""):
        with pytest.raises(TypeError, match=r"folder: .*; it must be the path of a folder"):
            load(folder=wrong)


def test_reviews_byte_by_byte(tmp_path):
    data = lra_text(folder=write_reviews(tmp_path), validation=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 4, 10)
    assert (data.d_in, data.d_out, data.classes) == (257, 2, ("negative", "positive"))
    fitted = {}
    for part in (data.train, data.validation):
        fitted |= {text_of(inputs): int(target) for inputs, target in (part[i] for i in range(len(part)))}
    names = {0: "bad", 1: "good"}
    assert fitted == {f"train {names[c]} {n} é".encode(): c for c in (0, 1) for n in range(5)}
    for inputs, target in (data.test[i] for i in range(10)):
        assert text_of(inputs).startswith(f"test {names[int(target)]}".encode())
    assert int(data.test[0][0].max()) == max("é".encode()) + 1


def test_reviews_are_held_out_by_the_seed(tmp_path):
    write_reviews(tmp_path)

    def held_out(seed):
        part = lra_text(folder=tmp_path, validation=4, seed=seed).validation
        return [text_of(part[i][0]) for i in range(4)]

    assert held_out(0) == held_out(0)
    assert len({tuple(held_out(seed)) for seed in range(5)}) > 1


def test_long_texts_are_cut(tmp_path):
    data = lra_text(folder=write_reviews(tmp_path / "imdb"), validation=1, max_length=6)
    assert {text_of(data.test[i][0]) for i in range(10)} == {b"test g", b"test b"}
    pairs = lra_retrieval(folder=write_pairs(tmp_path / "aan"), max_length=5)
    assert [text_of(side) for side in pairs.test[0][0]] == [b"first", b"secon"]


def test_bad_reviews(tmp_path):
    write_reviews(tmp_path)
    with pytest.raises(ValueError, match=r"validation: 10; .*train has 10 reviews, it must be fewer"):
        lra_text(folder=tmp_path, validation=10)
    for options in ({"validation": 0}, {"max_length": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: "):
            lra_text(folder=tmp_path, **options)
    (tmp_path / "test" / "pos" / "2_7.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"pos.2_7.txt: is empty; it must be a review"):
        lra_text(folder=tmp_path, validation=4)


def test_pairs_of_papers(tmp_path):
    data = lra_retrieval(folder=write_pairs(tmp_path))
    assert (data.task, data.d_in, data.d_out) == ("pair classification", 257, 2)
    for part in (data.train, data.validation, data.test):
        pairs = [tuple(text_of(side) for side in part[i][0]) for i in range(3)]
        assert pairs == [(b"first text", b'second "text'), (b"first text", b" "), (b'second "text', b"first text")]
        assert [int(part[i][1]) for i in range(3)] == [1, 0, 0]
        assert len(part.offsets) - 1 == 3  # three different texts, each stored once
    batch = collate([data.train[i] for i in range(3)])
    assert [side.shape for side in batch.inputs] == [(3, 12), (3, 12)]
    assert [lengths.tolist() for lengths in batch.lengths] == [[10, 10, 12], [12, 1, 10]]
    assert not batch.inputs[0][0, 10:].any()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"1\tP1\tP2\ttext\n", "4 columns; it must have a label, two identifiers and two texts"),
        (b"1\tP1\tP2\ta\tb\tc\n", "6 columns"),
        (b"\n", "1 columns"),
        (b"2\tP1\tP2\ta\tb\n", "label '2'; it must be 0 or 1"),
        (b"\xff\tP1\tP2\ta\tb\n", "label '\ufffd'"),
    ],
)
def test_pair_rows_that_are_not(tmp_path, row, message):
    write_pairs(tmp_path, [*PAIRS, row])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'new_aan_pairs.train.tsv'}: row 4: ")) as error:
        lra_retrieval(folder=tmp_path)
    assert message in str(error.value)


def test_every_byte_is_a_token(tmp_path):
    text = bytes(b for b in range(256) if b not in b"\t\n\r")
    data = lra_retrieval(folder=write_pairs(tmp_path, [b"1\ta\tb\t" + text + b"\t" + text[::-1] + b"\n"]))
    (one, two), _ = data.train[0]
    assert (text_of(one), text_of(two)) == (text, text[::-1])
    assert (int(one.min()), int(one.max())) == (1, 256)
    assert data.train.values.dtype == np.uint8
