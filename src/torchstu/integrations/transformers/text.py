"""Text as tokens on disk: read in pieces, tokenized once, whatever the size."""

from __future__ import annotations

import codecs
import json
import lzma
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from torchstu.whole_file import whole_file

PARTS = ("train", "validation", "test")
HELD_OUT = 0.05
"""The share of a file that is for validation, before the last one of that size, which is for the test."""
PIECE = 2**18
"""Bytes read and tokenized at once, up to the last end of a line in them."""
LONGEST_LINE = 2**20
"""Bytes in which the end of a line is looked for where a part of a file begins."""
END = "<|endoftext|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, 0 to 255 in the order of the library's byte alphabet, and 256 for the end of a text."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False, padding_side="left"
    )


def load_tokenizer(path: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a ``tokenizer.json`` or of a folder with one; bytes for None.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if path is None:
        return byte_tokenizer()
    given = Path(path)
    file = given / "tokenizer.json" if given.is_dir() else given
    if not file.is_file():
        raise ValueError(f"tokenizer: {path}: no such file; it must be a tokenizer.json, or a folder with one")
    try:
        if given.is_dir():
            return PreTrainedTokenizerFast.from_pretrained(path)
        return PreTrainedTokenizerFast(tokenizer_file=str(file), clean_up_tokenization_spaces=False)
    except Exception as error:
        raise ValueError(f"tokenizer: {path}: {error}; it must be a tokenizer.json") from error


def scripture() -> bytes:
    """The text that ships with the package, 2.1 MB; see data/SCRIPTURE.md."""
    return lzma.decompress(resources.files("torchstu.data").joinpath("scripture.txt.xz").read_bytes())


@dataclass(frozen=True)
class TokenFile:
    """Token ids of a text in a file, in three parts one after the other, and how many bytes of text they stand for.

    Attributes:
        path: of the ids.
        dtype: of the ids there, "uint16" or "uint32".
        tokens: by part, and of "all".
        bytes: by part, and of "all".
        vocab_size: ids are below it.
        lossless: whether the beginning of every part comes back from its tokens; where not, bits per byte flatter.
    """

    path: str
    dtype: str
    tokens: dict[str, int]
    bytes: dict[str, int]
    vocab_size: int
    lossless: bool = True

    def part(self, name: str) -> np.ndarray:
        """The ids of a part, mapped and not read."""
        start = 0 if name == "all" else sum(self.tokens[part] for part in PARTS[: PARTS.index(name)])
        return np.memmap(self.path, self.dtype, "r")[start : start + self.tokens[name]]

    def save(self, path: Path) -> None:
        """As JSON beside the ids."""
        with whole_file(path) as draft:
            draft.write_text(json.dumps(asdict(self) | {"path": Path(self.path).name}, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TokenFile:
        """What `save` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**found | {"path": str(path.parent / found["path"])})


def language_files(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths with folders replaced by the ``.txt`` and ``.md`` files below them.

    Raises:
        ValueError: a folder without any.
    """
    found: list[str] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            below = sorted(str(file) for file in path.rglob("*") if file.suffix in (".txt", ".md"))
            if not below:
                raise ValueError(f"files: {name}: a folder without .txt or .md files")
            found += below
        else:
            found.append(name)
    return tuple(found)


def write_tokens(files: Sequence[str], tokenizer: PreTrainedTokenizerFast, folder: Path) -> TokenFile:
    """Tokenize texts into ``folder``: of each file the last twentieth for the test and the one before for validation.

    Args:
        files: UTF-8 texts; none: the one that ships with the package.
        tokenizer: any.
        folder: for ``tokens.bin``; it is made.

    Raises:
        ValueError: a file that is empty or not UTF-8, or texts too short for three parts. OSError: one that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = "uint16" if _vocabulary(tokenizer) <= 2**16 else "uint32"
    tokens, counted, lossless = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0), True
    parts = {name: folder / f"{name}.part" for name in PARTS}
    with ExitStack() as stack:
        outs = {name: stack.enter_context(path.open("wb")) for name, path in parts.items()}
        for file in files or (None,):
            source, size = _opened(file)
            with source:
                bounds = _bounds(source, size)
                for name, start, stop in zip(PARTS, bounds, bounds[1:], strict=False):
                    for piece in _pieces(source, start, stop):
                        text = _decoded(piece, file)
                        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
                        lossless = lossless and (tokens[name] > 0 or tokenizer.decode(ids) == text)
                        np.asarray(ids, dtype).tofile(outs[name])
                        tokens[name] += len(ids)
                        counted[name] += len(piece)
    target = folder / "tokens.bin"
    with target.open("wb") as out:
        for path in parts.values():
            with path.open("rb") as part:
                while block := part.read(2**24):
                    out.write(block)
            path.unlink()
    for sizes in (tokens, counted):
        sizes["all"] = sum(sizes.values())
    return TokenFile(str(target), dtype, tokens, counted, _vocabulary(tokenizer), lossless)


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> int:
    """One above the highest id."""
    return max(tokenizer.get_vocab().values()) + 1


def _decoded(piece: bytes, file: str | None) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"files: {file}: {error.reason} near {piece[error.start : error.start + 8]!r}; it must be UTF-8"
        ) from error


def _pieces(source: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of [start, stop) in pieces that end with a line, or where there is none with a whole character."""
    source.seek(start)
    rest = b""
    while start < stop:
        block = source.read(min(PIECE, stop - start))
        start += len(block)
        piece = rest + block
        end = len(piece) if start >= stop or not block else piece.rfind(b"\n") + 1 or _whole(piece)
        rest = piece[end:]
        if not block:
            raise OSError("a file became shorter while it was read")
        yield piece[:end]


def _whole(piece: bytes) -> int:
    """How many bytes of a piece are whole UTF-8 characters."""
    for back in range(1, min(4, len(piece)) + 1):
        lead = piece[-back]
        if lead & 0xC0 != 0x80:  # the first byte of the last character
            size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return len(piece) if back >= size else len(piece) - back
    return len(piece)


def _bounds(source: BinaryIO, size: int) -> list[int]:
    """Where the parts of a file begin, and its end: at the start of a line near by, or of a character."""
    source.seek(0)
    bounds = [3 if source.read(3) == codecs.BOM_UTF8 else 0]
    held = int(HELD_OUT * size)
    for at in (size - 2 * held, size - held):
        source.seek(at)
        near = source.read(LONGEST_LINE)
        line = near.find(b"\n")
        gap = line + 1 if line >= 0 else next((i for i, byte in enumerate(near[:4]) if byte & 0xC0 != 0x80), 0)
        bounds.append(max(bounds[-1], at + gap))
    return [*bounds, size]


def _opened(file: str | None) -> tuple[BinaryIO, int]:
    if file is None:
        text = scripture()
        return BytesIO(text), len(text)
    size = Path(file).stat().st_size
    if not size:
        raise ValueError(f"files: {file}: is empty")
    return Path(file).open("rb"), size


class Windows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Stretches of ``context`` tokens, and as labels in place the ones that follow: every token is predicted once.

    The losses of the library's models shift labels themselves; with these `next_token_loss` is the loss.

    Args:
        ids: of a part.
        context: tokens that a model reads at once.
        offset: where the first begins.

    Raises:
        ValueError: fewer ids than one stretch.
    """

    def __init__(self, ids: np.ndarray, context: int, offset: int = 0) -> None:
        self.ids, self.context, self.offset = ids, context, offset
        if context < 1 or len(self) < 1:
            raise ValueError(f"context: {context}; there are {len(ids)} tokens, it must be from 1 to {len(ids) - 1}")

    def __len__(self) -> int:
        return (len(self.ids) - 1 - self.offset) // self.context

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = self.offset + index * self.context
        ids = torch.from_numpy(self.ids[start : start + self.context + 1].astype(np.int64))
        return {"input_ids": ids[:-1], "labels": ids[1:]}


def next_token_loss(outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Tensor:
    """Mean nats of labels (B, T) in place, for the library's trainer; the batches of `Windows` are all of one size.

    Raises:
        ValueError: no labels: something took them out of the batch.
    """
    if labels is None:
        raise ValueError("labels: None; a batch must have them")
    return cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten())
