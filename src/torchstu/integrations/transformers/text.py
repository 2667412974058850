"""Text as tokens on disk: read in pieces, tokenized once, whatever the size."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PARTS = ("train", "validation", "test")
HELD_OUT = 0.05
"""The share of a file that is for validation, before the last one of that size, which is for the test."""
PIECE = 2**18
"""Bytes read and tokenized at once, up to the next end of a line."""
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
        tokens: by part.
        bytes: by part.
        vocab_size: ids are below it.
    """

    path: str
    dtype: str
    tokens: dict[str, int]
    bytes: dict[str, int]
    vocab_size: int

    def part(self, name: str) -> np.ndarray:
        """The ids of a part, mapped and not read."""
        start = sum(self.tokens[part] for part in PARTS[: PARTS.index(name)])
        return np.memmap(self.path, self.dtype, "r")[start : start + self.tokens[name]]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TokenFile:
        """What `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


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
        ValueError: a file that is empty or too short for three parts. OSError: one that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = "uint16" if len(tokenizer) <= 2**16 else "uint32"
    tokens, counted = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    parts = {name: folder / f"{name}.part" for name in PARTS}
    for name, path in parts.items():
        with path.open("wb") as out:
            for file in files or (None,):
                for piece in _pieces(file, name):
                    ids = tokenizer.encode(piece.decode("utf-8", errors="replace"), add_special_tokens=False, verbose=False)
                    np.asarray(ids, dtype).tofile(out)
                    tokens[name] += len(ids)
                    counted[name] += len(piece)
        if tokens[name] < 2:
            raise ValueError(f"files: {tokens[name]} tokens for {name}; the text must be longer")
    target = folder / "tokens.bin"
    with target.open("wb") as out:
        for path in parts.values():
            with path.open("rb") as part:
                while block := part.read(2**24):
                    out.write(block)
            path.unlink()
    return TokenFile(str(target), dtype, tokens, counted, len(tokenizer))


def _pieces(file: str | None, part: str) -> Iterator[bytes]:
    """The bytes of a part of a file, by pieces that end with a line."""
    if file is None:
        from io import BytesIO

        text = scripture()
        yield from _between(BytesIO(text), *_bounds(len(text), part))
        return
    path = Path(file)
    size = path.stat().st_size
    if not size:
        raise ValueError(f"files: {file}: is empty")
    with path.open("rb") as source:
        yield from _between(source, *_bounds(size, part))


def _bounds(size: int, part: str) -> tuple[int, int]:
    held = int(HELD_OUT * size)
    return {"train": (0, size - 2 * held), "validation": (size - 2 * held, size - held), "test": (size - held, size)}[part]


def _between(source: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    """Whole lines that begin in [start, stop)."""
    if start:
        source.seek(start - 1)
        source.readline()  # the line that began before
    while source.tell() < stop:
        at = source.tell()
        piece = source.read(min(PIECE, stop - at))
        yield piece + source.readline(2**20) if not piece.endswith(b"\n") else piece


class Windows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Stretches of ``context`` + 1 tokens that overlap by one, for the library's trainer: every token is predicted once.

    Args:
        ids: of a part.
        context: tokens that a model reads at once.
        offset: where the first begins.

    Raises:
        ValueError: fewer ids than one stretch.
    """

    def __init__(self, ids: np.ndarray, context: int, offset: int = 0) -> None:
        self.ids, self.context, self.offset = ids, context, offset
        if len(self) < 1:
            raise ValueError(f"context: {context}; there are {len(ids)} tokens, it must be below that")

    def __len__(self) -> int:
        return (len(self.ids) - 1 - self.offset) // self.context

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = self.offset + index * self.context
        ids = torch.from_numpy(self.ids[start : start + self.context + 1].astype(np.int64))
        return {"input_ids": ids, "labels": ids}
