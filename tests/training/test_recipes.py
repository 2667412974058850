"""The shipped recipes: every task with every mixer is read, built at its size and stepped once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from torchstu.data.sequences import SequenceData, collate
from torchstu.training.build import build_model, predict
from torchstu.training.cost import data_for_cost
from torchstu.training.losses import loss_sum
from torchstu.training.module import make_optimizer
from torchstu.training.recipe_file import RECIPES, read_recipe, recipe_text, shipped_recipes

SIZES = {"listops": (256, 2000), "text": (256, 4000), "retrieval": (256, 4000), "image": (256, 1024), "pathfinder": (256, 1024),
         "pathx": (256, 16384)}  # fmt: skip
PUBLISHED = list(SIZES)
SMALL = [f"{task}-small" for task in PUBLISHED] + ["sequential-mnist-small", "mnist-1d-small", "weather-small"]
MIXERS = ["ar-stu", "stu", "s4d", "lru"]
STEPS = 24
"""What is read of each sequence here."""


class Cut:
    """The first example of a part, its sequences cut short."""

    def __init__(self, examples):
        inputs, target = examples[0]
        target = self.cut(target) if target.ndim else target
        self.example = (tuple(map(self.cut, inputs)) if isinstance(inputs, tuple) else self.cut(inputs)), target

    @staticmethod
    def cut(sequence):
        return sequence[:STEPS]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.example


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Released files as far as the recipes need them, by data set."""
    root = tmp_path_factory.mktemp("released")
    for part in ("train", "test"):
        for name in ("pos", "neg"):
            (root / part / name).mkdir(parents=True)
            for i in range(4):
                (root / part / name / f"{i}.txt").write_text(f"{name} " * 20)
    for part in ("train", "eval", "test"):
        (root / f"new_aan_pairs.{part}.tsv").write_text("1\ta\tb\tone text\tanother text\n" * 2)
    record = np.arange(3073, dtype=np.uint8) % 10
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        (root / f"{name}.bin").write_bytes(np.tile(record, 4).tobytes())
    few = {"lra_text": {"validation": 2}, "sequential_cifar": {"validation": 2}}
    return {
        name: {"data.options.folder": str(root)} | {f"data.options.{k}": v for k, v in few.get(name, {}).items()}
        for name in ("lra_text", "lra_retrieval", "sequential_cifar")
    }


def recipe_of(names, folders):
    known = read_recipe(
        names, {"data.options.folder": "x"} if names[0].split("-")[0] in ("text", "retrieval", "image") else None
    )
    return read_recipe(names, folders.get(known.data.name, {}))


@pytest.fixture(scope="module")
def data_of(folders):
    """One short sequence of the data of each task."""
    made: dict[str, SequenceData] = {}

    def get(task):
        if task not in made:
            recipe = recipe_of([task], folders)
            few = replace(recipe, training=replace(recipe.training, batch_size=1))
            data = data_for_cost(few)
            made[task] = replace(data, train=Cut(data.train), validation=Cut(data.train), test=Cut(data.train))
        return made[task]

    return get


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("task", PUBLISHED + SMALL)
def test_every_task_with_every_mixer_is_built_and_stepped(task, mixer, folders, data_of):
    names = [task, f"mixers/{mixer}" + ("-small" if task in SMALL else "")]
    recipe, data = recipe_of(names, folders), data_of(task)
    model = build_model(recipe.model, data, recipe.pooling)
    before = [weight.clone() for weight in model.readout.parameters()]
    batch = collate([data.train[0]])
    loss = loss_sum(data.task, predict(model, data.task, batch), batch.targets)
    loss.backward()
    make_optimizer(model, recipe.optimizer).step()
    assert torch.isfinite(loss)
    assert all(not torch.equal(old, new) for old, new in zip(before, model.readout.parameters(), strict=True))
    if task in PUBLISHED:
        assert (recipe.model.d_model, recipe.model.length) == SIZES[task]
        assert recipe.model.num_layers == 6


OTHERS = [("pathx", "s4d-pathx"), ("pathx", "lru-pathx"), ("listops", "tensordot-stu"), ("listops", "attention"),
          ("listops-small", "tensordot-stu-small"), ("listops-small", "attention-small")]  # fmt: skip


@pytest.mark.parametrize(("task", "mixer"), OTHERS)
def test_other_mixers_are_built(task, mixer, data_of):
    recipe = read_recipe([task, f"mixers/{mixer}"])
    model = build_model(recipe.model, data_of(task), recipe.pooling, "meta")
    assert sum(weight.numel() for weight in model.parameters()) > 0


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("mixers/")])
def test_task_recipes_stand_alone_and_as_files(name, folders):
    recipe = recipe_of([name], folders)
    assert recipe.model.mixer == "AR-STU"
    assert recipe.optimizer.warmup_steps < recipe.training.steps
    assert read_recipe(RECIPES / f"{name}.yaml", folders.get(recipe.data.name)) == recipe
    assert "learning_rate" in recipe_text(recipe)
    overlay = "mixers/ar-stu" + ("-small" if name in SMALL else "")
    assert recipe_of([name, overlay], folders) == recipe, "the overlay of AR-STU changes nothing"


def test_the_image_recipe_is_the_papers(folders):
    recipe = recipe_of(["image"], folders)
    assert (recipe.model.d_model, recipe.model.num_layers, recipe.model.dropout) == (256, 6, 0.1)
    assert recipe.model.mixer_options == {"num_filters": 24, "input_lags": 3, "output_lags": 2, "initial_feedback": "zero"}
    assert (recipe.training.steps, recipe.training.batch_size, recipe.optimizer.warmup_steps) == (180_000, 48, 18_000)
    optimizer = recipe.optimizer
    assert (optimizer.learning_rate, optimizer.slow_rate, optimizer.final_learning_rate) == (5e-4, 5e-5, 1e-7)
    assert optimizer.weight_decay == 0.1
