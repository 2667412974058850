"""One process or many: how Lightning is set up, and what each process has of the batch and of the model."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstu.data.sequences import Batch, TaskKind
from torchstu.extras import require
from torchstu.layers.sequence_parallel import sequence_parallel, sum_gradients
from torchstu.models.blocks import Block
from torchstu.models.ssm import SpectralSSM
from torchstu.training.build import predict
from torchstu.training.checkpoints import read_checkpoint
from torchstu.training.recipe import TrainingConfig


class Predictor(nn.Module):
    """A model and its task: outputs for a batch, by `predict`."""

    def __init__(self, model: nn.Module, task: TaskKind) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch) -> Tensor:
        """(B, d_out), or (B, L, d_out) for tasks with a target a step."""
        return predict(self.model, self.task, batch)


def is_first_process() -> bool:
    """Whether this process prints and writes: number 0 for ``torchrun``, SLURM, MPI or Lightning.

    Where Lightning starts the processes of several machines, it numbers them over all machines only when it has started them.
    """
    rank = require("train", "pytorch_lightning.utilities.rank_zero").rank_zero_only.rank
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


@dataclass(frozen=True)
class Strategy:
    """How the work is divided.

    Attributes:
        name: "single", "ddp", "fsdp2" or "sequence".
        device: "cpu" or "cuda".
        processes: in all.
    """

    name: str
    device: str
    processes: int

    @classmethod
    def of(cls, training: TrainingConfig) -> Strategy:
        """The strategy of a recipe, on this machine."""
        on_gpu = training.accelerator == "gpu" or (training.accelerator == "auto" and torch.cuda.is_available())
        processes = training.devices * training.nodes
        name: str = training.strategy
        if name == "auto":
            name = "ddp" if processes > 1 else "single"
        return cls(name, "cuda" if on_gpu else "cpu", processes)

    @property
    def batch_shares(self) -> int:
        """Pieces that a batch is cut into: one a process, or one for all that share the sequences."""
        return 1 if self.name == "sequence" else self.processes

    @property
    def gradient_factor(self) -> float:
        """What makes the gradient of a loss over all processes from what the strategy does with each one's: a mean or a sum."""
        return float(self.processes) if self.name in ("ddp", "fsdp2") else 1.0

    def for_lightning(self) -> Any:
        """The ``strategy`` of a Lightning Trainer; a new one each time, since a Trainer keeps it."""
        if self.name == "single":
            return "auto"
        strategies: Any = require("train", "pytorch_lightning.strategies")
        backend = "gloo" if self.device == "cpu" else None
        if self.name == "fsdp2":
            return _sharded(strategies)(
                data_parallel_size=self.processes,
                tensor_parallel_size=1,
                process_group_backend=backend,
                save_distributed_checkpoint=False,
            )
        if self.name == "ddp":
            return strategies.DDPStrategy(process_group_backend=backend)

        class Unwrapped(strategies.DDPStrategy):
            """Processes and their group, but gradients are added up by `finish_gradients`."""

            def configure_ddp(self) -> None:
                pass

        return Unwrapped(process_group_backend=backend)

    def divide(self, predictor: Predictor) -> None:
        """Divide the model, in place: its weights for "fsdp2", its sequences for "sequence"."""
        if self.name == "fsdp2":
            _shard(predictor, self._mesh)
        elif self.name == "sequence":
            assert isinstance(predictor.model, SpectralSSM)
            sequence_parallel(predictor.model.backbone.blocks, self._mesh)

    def piece(self, batch: Batch, rank: int) -> Batch:
        """What this process has of a batch that was loaded for it.

        Raises:
            ValueError: sequences with fewer steps than there are processes.
        """
        if self.name != "sequence":
            return batch
        steps = batch.targets.shape[1]
        if steps < self.processes:
            raise ValueError(
                f"data: sequences of {steps} steps; for strategy 'sequence' there must be {self.processes} or more"
            )
        inputs, targets = (x.tensor_split(self.processes, dim=1)[rank] for x in (batch.inputs, batch.targets))
        # Causal layers: what comes behind a sequence's end changes nothing before it, and its targets do not count.
        return Batch(inputs, torch.full((len(targets),), targets.shape[1], device=targets.device), targets)

    def finish_gradients(self, predictor: Predictor) -> None:
        """What is left to do for the gradient of all processes, after the last backward."""
        if self.name == "sequence":
            sum_gradients(predictor, self._mesh)

    def no_sync(self, lightning_strategy: Any) -> AbstractContextManager[Any]:
        """A backward after which more follows in this step."""
        return lightning_strategy.block_backward_sync() if self.name == "ddp" else nullcontext()

    @cached_property
    def _mesh(self) -> Any:
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.device, (self.processes,))


def _sharded(strategies: Any) -> Any:
    """Lightning's strategy for FSDP2, with checkpoints that every strategy reads.

    In steps of the optimizer, plain tensors are the same on all processes: the scales of
    `torchstu.learn.optimizers.SpectralAdamW`. Loading makes a step too, to have moments to fill.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
    from torch.distributed.tensor.experimental import implicit_replication

    class Sharded(strategies.ModelParallelStrategy):
        def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
            checkpoint, whole = read_checkpoint(Path(checkpoint_path)), StateDictOptions(full_state_dict=True)
            set_model_state_dict(self.model, checkpoint["state_dict"], options=whole)
            with implicit_replication():
                for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                    set_optimizer_state_dict(self.model, optimizer, _by_name(state, optimizer, self.model), options=whole)
            return checkpoint

        def optimizer_step(self, *arguments: Any, **options: Any) -> Any:
            with implicit_replication():
                return super().optimizer_step(*arguments, **options)

    return Sharded


def _by_name(state: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state with names of weights instead of numbers, which count differently in each strategy."""
    names, saved = {weight: name for name, weight in model.named_parameters()}, state["param_groups"]
    name_of = {
        number: names[weight]
        for theirs, own in zip(saved, optimizer.param_groups, strict=True)
        for number, weight in zip(theirs["params"], own["params"], strict=True)
    }
    return {
        "state": {name_of[number]: moments for number, moments in state["state"].items()},
        "param_groups": [group | {"params": [name_of[number] for number in group["params"]]} for group in saved],
    }


def _shard(predictor: Predictor, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for part in predictor.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
            register_fsdp_forward_method(part, "both_ways")
    fully_shard(predictor, mesh=mesh)
