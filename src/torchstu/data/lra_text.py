"""The tasks of Long Range Arena whose data are texts, from folders of released files that the user has: nothing is downloaded.

Text is bytes: token 0 is the padding and byte b is token b + 1, 257 in all. Files are read row by row; a row that is not of the
format is an error with its number.

Source: Tay et al., arXiv 2011.04006.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from torchstu.data.files import DataError
from torchstu.data.listops import SYMBOLS, listops_data
from torchstu.data.packed import PackedExamples, Packer
from torchstu.data.sequences import SequenceData
from torchstu.spectral.measures import positive_int

VOCABULARY = 257
_ARENA = "lra_release.gz of google-research/long-range-arena (Tay et al., arXiv 2011.04006)"
LISTOPS_SOURCE = f"listops-1000 in {_ARENA}"
IMDB_SOURCE = "aclImdb, the Large Movie Review Dataset (Maas et al., ACL 2011)"
AAN_SOURCE = f"tsv_data in {_ARENA}, from the ACL Anthology Network (Radev et al., 2013)"

_SYMBOL_BYTES = {symbol.encode(): place for place, symbol in enumerate(SYMBOLS)}
_LABELS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1}


def lra_listops(*, folder: str | Path) -> SequenceData:
    """ListOps from the released files, in the tokens of `torchstu.data.listops.listops`, which generates the like.

    Args:
        folder: ``listops-1000`` of ``lra_release.gz`` of google-research/long-range-arena, with ``basic_train.tsv``,
            ``basic_val.tsv`` and ``basic_test.tsv``: a header ``Source``, ``Target``, then an expression and its value a row.
            Parentheses are dropped, as the published models had it.

    Raises:
        DataError: no such file, or a row that is not of the format; rows count from 1, below the header.
        TypeError: ``folder`` is no path.
    """
    names = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
    paths = _find(folder, names, LISTOPS_SOURCE)
    parts = {part: _read_listops(path) for part, path in paths.items()}
    return listops_data("LRA ListOps", parts, LISTOPS_SOURCE, {"licence": "unknown", "split": "published"})


def lra_text(*, folder: str | Path, max_length: int = 4_000, validation: int = 2_500, seed: int = 0) -> SequenceData:
    """Text: whether a film review is positive, byte by byte (IMDB; 25 000 reviews to train on, 25 000 to test).

    The arena has no validation part, and published runs choose by the test part. Here ``validation`` reviews are drawn from
    those to train on, and the test part stays untouched.

    Args:
        folder: ``aclImdb`` of the Large Movie Review Dataset (Maas et al., ACL 2011), with a review a file in ``train/pos``,
            ``train/neg``, ``test/pos`` and ``test/neg`` (``*.txt``).
        max_length: bytes of a review that are read; the rest is cut off.
        validation: reviews of the training part held out.
        seed: of which are held out.

    Raises:
        DataError: no such folder, no reviews in it, one of them empty or unreadable.
        TypeError, ValueError: ``folder`` is no path, or numbers out of range.
    """
    limit, count = positive_int("max_length", max_length), positive_int("validation", validation)
    seed = positive_int("seed", seed, 0)
    root = _path(folder)
    fitted, test = _read_reviews(root / "train", limit), _read_reviews(root / "test", limit)
    if count >= len(fitted):
        raise ValueError(f"validation: {count}; {root / 'train'} has {len(fitted)} reviews, it must be fewer")
    order = Generator(PCG64(SeedSequence([seed]))).permutation(len(fitted))
    return SequenceData(
        name="LRA Text",
        task="classification",
        inputs="tokens",
        d_in=VOCABULARY,
        d_out=2,
        train=fitted.select(np.sort(order[count:])),
        validation=fitted.select(np.sort(order[:count])),
        test=test,
        source=IMDB_SOURCE,
        about={"licence": "unknown", "split": f"published test part; validation drawn from the rest, seed {seed}"},
        classes=("negative", "positive"),
    )


def lra_retrieval(*, folder: str | Path, max_length: int = 4_000) -> SequenceData:
    """Retrieval: whether one of two papers cites the other, from their texts byte by byte (AAN).

    A text that comes again, as most do, is stored once.

    Args:
        folder: ``tsv_data`` of ``lra_release.gz`` of google-research/long-range-arena, with ``new_aan_pairs.train.tsv``,
            ``new_aan_pairs.eval.tsv`` and ``new_aan_pairs.test.tsv``, without header: a label 0 or 1, two identifiers and two
            texts a row. Quotation marks mean nothing.
        max_length: bytes of a text that are read; the rest is cut off. An empty text becomes one blank.

    Raises:
        DataError: no such file, or a row that is not of the format; rows count from 1.
        TypeError, ValueError: ``folder`` is no path, or ``max_length`` out of range.
    """
    limit = positive_int("max_length", max_length)
    names = {"train": "new_aan_pairs.train.tsv", "validation": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}
    paths = _find(folder, names, AAN_SOURCE)
    return SequenceData(
        name="LRA Retrieval",
        task="pair classification",
        inputs="tokens",
        d_in=VOCABULARY,
        d_out=2,
        **{part: _read_pairs(path, limit) for part, path in paths.items()},
        source=AAN_SOURCE,
        about={"licence": "unknown", "split": "published"},
        classes=("unrelated", "cited"),
    )


def _path(folder: str | Path) -> Path:
    if not isinstance(folder, (str, Path)) or not str(folder):
        raise TypeError(f"folder: {folder!r}; it must be the path of a folder")
    return Path(folder).expanduser()


def _find(folder: str | Path, names: dict[str, str], source: str) -> dict[str, Path]:
    paths = {part: _path(folder) / name for part, name in names.items()}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{path}: no such file; it must be there, with {', '.join(names.values())} in one folder: {source}")
    return paths


def _rows(path: Path) -> Iterator[list[bytes]]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _read_listops(path: Path) -> PackedExamples:
    packer, rows = Packer(), _rows(path)
    if (header := next(rows, [])) != [b"Source", b"Target"]:
        raise DataError(f"{path}: its header is {_shown(header)}; it must be Source and Target, with a tab between")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise DataError(f"{path}: row {number}: {len(row)} columns; it must have Source and Target, with a tab between")
        words, target = row[0].translate(None, b"()").split(), row[1]
        if unknown := [word for word in words if word not in _SYMBOL_BYTES]:
            raise DataError(f"{path}: row {number}: {_shown(unknown[:1])} in Source; it must be one of {' '.join(SYMBOLS)}")
        if not words:
            raise DataError(f"{path}: row {number}: Source is empty; it must be an expression")
        if len(target) != 1 or not target.isdigit():
            raise DataError(f"{path}: row {number}: Target {_shown([target])}; it must be a digit")
        packer.add(packer.store(bytes(map(_SYMBOL_BYTES.__getitem__, words))), int(target))
    return _filled(packer, path)


def _read_reviews(folder: Path, limit: int) -> PackedExamples:
    packer = Packer()
    for target, name in enumerate(("neg", "pos")):
        paths = sorted((folder / name).glob("*.txt"))
        if not paths:
            raise DataError(f"{folder / name}: no *.txt in it; it must have one file a review: {IMDB_SOURCE}")
        for path in paths:
            try:
                with path.open("rb") as file:
                    text = file.read(limit)
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            if not text:
                raise DataError(f"{path}: is empty; it must be a review")
            packer.add(packer.store(text), target)
    return packer.pack()


def _read_pairs(path: Path, limit: int) -> PackedExamples:
    packer, known = Packer(), dict[bytes, int]()

    def place(text: bytes) -> int:
        text = text[:limit] or b" "
        digest = blake2b(text, digest_size=16).digest()
        if digest not in known:
            known[digest] = packer.store(text)
        return known[digest]

    for number, row in enumerate(_rows(path), 1):
        if len(row) != 5:
            raise DataError(
                f"{path}: row {number}: {len(row)} columns; it must have a label, two identifiers and two texts, "
                "with tabs between"
            )
        if row[0] not in _LABELS:
            raise DataError(f"{path}: row {number}: label {_shown(row[:1])}; it must be 0 or 1")
        packer.add((place(row[3]), place(row[4])), _LABELS[row[0]])
    return _filled(packer, path)


def _filled(packer: Packer, path: Path) -> PackedExamples:
    if not len(packer):
        raise DataError(f"{path}: has no rows; it must have at least one")
    return packer.pack()


def _shown(words: list[bytes]) -> str:
    return repr("\t".join(word.decode("utf-8", "replace") for word in words)[:40])
