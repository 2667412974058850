"""Sequences to learn from, of one length or many: what a data set is, and how examples become a padded batch.

Shapes: B examples, L the longest of a batch, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstu.models.embedding import InputKind

TaskKind = Literal["classification", "pair classification", "step classification", "step regression", "forecast"]
WHOLE_SEQUENCE: tuple[TaskKind, ...] = ("classification", "pair classification")
"""Tasks with one label a sequence."""
LABELLED: tuple[TaskKind, ...] = (*WHOLE_SEQUENCE, "step classification")
"""Tasks whose targets are labels."""
IGNORED = -100
"""The label of a step at which nothing is to be predicted, as in `torch.nn.functional.cross_entropy`."""

Example = tuple[Any, Tensor]
"""Inputs of one sequence (for "pair classification" a pair of them) and its target."""


class Examples(Protocol):
    """What holds examples: a list, or anything with a length and an index; an index gives the same example every time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class SequenceData:
    """A data set in three parts, and what a model has to know about it.

    ======================  ==============================================  ==========================================
    task                    target of one sequence of L steps               output of the model that fits
    ======================  ==============================================  ==========================================
    "classification"        () int64, below ``d_out``                       pooled, (B, d_out)
    "pair classification"   () int64; inputs are a pair of sequences        pooled, (B, d_out)
    "step classification"   (L,) int64, `IGNORED` where nothing is asked    per step, (B, L, d_out)
    "step regression"       (L, d_out) float32, NaN where nothing is asked  per step, (B, L, d_out)
    "forecast"              (L, d_out) float32, as above                    per step, (B, L, d_out)
    ======================  ==============================================  ==========================================

    A forecast's channels are the coming steps: d_out = horizon · D, step after step.

    Attributes:
        name: as in reports.
        task: see the table.
        inputs: "reals" (L, d_in) float32; "tokens" (L,) int64 below ``d_in``; "pixels" (L, d_in) uint8.
        d_in: channels, or the size of the vocabulary.
        d_out: classes, or channels of the target.
        train, validation, test: the parts. Nothing may be chosen on ``test``.
        source: where the data come from.
        classes: names of the classes, for tables; empty without.
        about: what a user of a trained model has to know, as JSON values; it is stored with the model and in the results, and
            the card shows of it: "licence" (of the data), "split" (how the parts were made, in words), "unit" (of reals),
            "columns" (of inputs and of outputs, lists of names), "baselines" (name to error on the test part, as that of the
            model is counted), "input_scaler" and "output_scaler" (`torchstu.data.scaling.Scaler.to_dict`).
    """

    name: str
    task: TaskKind
    inputs: InputKind
    d_in: int
    d_out: int
    train: Examples
    validation: Examples
    test: Examples
    source: str
    classes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


class Batch(NamedTuple):
    """Examples of unequal lengths, padded at the end: tokens and pixels with 0, targets with `IGNORED` or NaN.

    For pairs ``inputs`` and ``lengths`` are pairs.
    """

    inputs: Any
    """(B, L, d_in) or (B, L)."""
    lengths: Any
    """(B,) int64."""
    targets: Tensor
    """(B,), (B, L) or (B, L, d_out)."""


def collate(examples: Sequence[Example]) -> Batch:
    """A padded batch of examples; for a ``DataLoader``."""
    inputs = [inputs for inputs, _ in examples]
    targets = [target for _, target in examples]
    if isinstance(inputs[0], tuple):
        pairs = [_pad([pair[side] for pair in inputs]) for side in (0, 1)]
        padded, lengths = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    else:
        padded, lengths = _pad(inputs)
    if targets[0].ndim == 0:
        return Batch(padded, lengths, torch.stack(targets))
    filler = float("nan") if targets[0].is_floating_point() else float(IGNORED)
    return Batch(padded, lengths, pad_sequence(targets, batch_first=True, padding_value=filler))


def _pad(sequences: list[Tensor]) -> tuple[Any, Any]:
    return pad_sequence(sequences, batch_first=True), torch.tensor([len(sequence) for sequence in sequences])
