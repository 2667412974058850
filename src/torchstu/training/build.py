"""The model that fits a data set, and what it says of a batch."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from torchstu.data.sequences import WHOLE_SEQUENCE, Batch, SequenceData, TaskKind
from torchstu.models.config import BackboneConfig, check_choice
from torchstu.models.pairs import PairClassifier
from torchstu.models.pooling import PoolingName
from torchstu.models.ssm import SpectralSSM


def build_model(
    config: BackboneConfig,
    data: SequenceData,
    pooling: PoolingName | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A `SpectralSSM`, or a `PairClassifier` for pairs; ``pooling``, by default "mean", counts for tasks with one
    label a sequence; steps are never pooled.

    Raises:
        ValueError: an unknown task or pooling, options that the mixer refuses.
    """
    check_choice("task", data.task, get_args(TaskKind))
    options = config.as_dict() | {"mixer_options": config.mixer_options, "inputs": data.inputs}
    pooled: PoolingName = (pooling or "mean") if data.task in WHOLE_SEQUENCE else "last"
    kind = PairClassifier if data.task == "pair classification" else SpectralSSM
    return kind(data.d_in, data.d_out, **options, pooling=pooled, device=device, dtype=dtype)


def predict(model: nn.Module, task: TaskKind, batch: Batch) -> Tensor:
    """Outputs for a batch, as in the table of `SequenceData`; behind the end of a sequence they are 0."""
    if task == "pair classification":
        return model(batch.inputs, batch.lengths)
    if task == "classification":
        assert isinstance(model, SpectralSSM)
        return model.at_end(batch.inputs, batch.lengths)
    return model(batch.inputs, lengths=batch.lengths)[0]
