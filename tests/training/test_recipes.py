"""The shipped recipes: every task with every mixer is read, built at its size and stepped once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from torchstu.data.sequences import SequenceData, collate
from torchstu.training.build import build_model, predict
from torchstu.training.checks import check_recipe
from torchstu.training.cost import data_for_cost
from torchstu.training.losses import loss_sum
from torchstu.training.module import learning_rate_factor, make_optimizer
from torchstu.training.recipe_file import RECIPES, read_recipe, recipe_text, shipped_recipes

LENGTHS = {"listops": 2000, "text": 4000, "retrieval": 4000, "image": 1024, "pathfinder": 1024, "pathx": 16384}
PUBLISHED = list(LENGTHS)
SMALL = [f"{task}-small" for task in PUBLISHED] + ["sequential-mnist-small", "mnist-1d-small", "weather-small"]
PAIRS = [(task, mixer) for task in PUBLISHED + SMALL for mixer in ("ar-stu", "stu", "s4d", "lru")]
PAIRS += [("listops", mixer) for mixer in ("tensordot-stu", "attention", "flash-stu")]
PAIRS += [("listops-small", mixer) for mixer in ("tensordot-stu", "attention")]
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
            options = recipe.data.options
            few = {part: 1 for part in ("train", "validation", "test") if isinstance(options.get(part), int)}
            few = replace(recipe, data=replace(recipe.data, options=options | few))
            data = data_for_cost(replace(few, training=replace(recipe.training, batch_size=1)))
            made[task] = replace(data, train=Cut(data.train), validation=Cut(data.train), test=Cut(data.train))
        return made[task]

    return get


def overlay(task, mixer):
    ending = "-small" if task in SMALL else f"-{task}" if mixer in ("s4d", "lru") else ""
    return f"mixers/{mixer}{ending}"


@pytest.mark.parametrize(("task", "mixer"), PAIRS)
def test_every_task_with_every_mixer_is_built_and_stepped(task, mixer, folders, data_of):
    recipe, data = recipe_of([task, overlay(task, mixer)], folders), data_of(task)
    check_recipe(recipe)
    model = build_model(recipe.model, data, recipe.pooling)
    before = [weight.clone() for weight in model.readout.parameters()]
    batch = collate([data.train[0]])
    loss = loss_sum(data.task, predict(model, data.task, batch), batch.targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip or torch.inf, error_if_nonfinite=True)
    make_optimizer(model, recipe.optimizer).step()
    assert torch.isfinite(loss)
    assert all(not torch.equal(old, new) for old, new in zip(before, model.readout.parameters(), strict=True))
    optimizer, steps = recipe.optimizer, recipe.training.steps
    at = (0, optimizer.warmup_steps_of(steps) - 1, steps - 1)
    rates = [optimizer.learning_rate * learning_rate_factor(optimizer, steps, step) for step in at]
    assert 0 < rates[0] < rates[1]
    assert rates[1:] == pytest.approx([optimizer.learning_rate, optimizer.final_learning_rate])
    if task in PUBLISHED:
        assert recipe.model.length == LENGTHS[task]
        if mixer not in ("s4d", "lru"):
            assert (recipe.model.d_model, recipe.model.num_layers) == (256, 6)


def settings(names, folders):
    recipe = recipe_of(names, folders)
    model, optimizer, training = recipe.model, recipe.optimizer, recipe.training
    return (
        model.num_layers, model.d_model, model.mixer_options["state_dim"], model.norm, model.norm_position, model.dropout,
        optimizer.learning_rate, optimizer.slow_rate, optimizer.weight_decay, training.batch_size, training.steps,
        optimizer.warmup_steps_of(training.steps),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "published"),
    [
        ("listops", (8, 128, 64, "batch", "post", 0.0, 1e-2, 1e-3, 0.05, 50, 80_000, 1_000)),
        ("text", (6, 256, 64, "batch", "pre", 0.0, 1e-2, 1e-3, 0.05, 16, 50_000, 1_000)),
        ("retrieval", (6, 256, 64, "batch", "pre", 0.0, 1e-2, 1e-3, 0.05, 64, 50_000, 2_500)),
        ("image", (6, 512, 64, "layer", "post", 0.1, 1e-2, 1e-3, 0.05, 50, 180_000, 900)),
        ("pathfinder", (6, 256, 64, "batch", "pre", 0.0, 4e-3, 1e-3, 0.03, 64, 500_000, 2_500)),
        ("pathx", (6, 256, 64, "batch", "pre", 0.0, 1e-3, 5e-4, 0.05, 16, 500_000, 50_000)),
    ],
)
def test_s4d_is_as_released(task, published, folders):
    assert settings([task, f"mixers/s4d-{task}"], folders) == published
    model = recipe_of([task, f"mixers/s4d-{task}"], folders).model
    assert (model.bidirectional, model.mixer_options["init"]) == (True, "legs")
    assert model.mixer_options["dt_min"] == (1e-4 if task == "pathx" else 1e-3)


@pytest.mark.parametrize(
    ("task", "reproduced", "ring"),
    [
        ("listops", (6, 128, 256, "batch", "pre", 0.0, 3e-3, 1.5e-3, 0.05, 32, 90_000, 12_000), (0.0, 0.9)),
        ("text", (6, 256, 192, "batch", "pre", 0.1, 4e-3, 4e-4, 0.05, 32, 50_000, 5_000), (0.5, 0.9)),
        ("retrieval", (6, 128, 256, "batch", "pre", 0.1, 2e-3, 1e-3, 0.05, 64, 100_000, 5_000), (0.5, 0.9)),
        ("image", (6, 512, 384, "batch", "pre", 0.1, 5e-3, 1.25e-3, 0.05, 50, 180_000, 18_000), (0.9, 0.999)),
        ("pathfinder", (6, 192, 256, "batch", "pre", 0.0, 4e-3, 1e-3, 0.05, 64, 500_000, 50_000), (0.9, 0.999)),
        ("pathx", (6, 128, 256, "batch", "pre", 0.0, 2e-3, 5e-4, 0.05, 32, 250_000, 25_000), (0.999, 0.9999)),
    ],
)
def test_lru_is_as_reproduced(task, reproduced, ring, folders):
    assert settings([task, f"mixers/lru-{task}"], folders) == reproduced
    options = recipe_of([task, f"mixers/lru-{task}"], folders).model.mixer_options
    assert (options["r_min"], options["r_max"]) == ring


def test_the_hybrid_is_flash_stus():
    model = read_recipe(["listops", "mixers/flash-stu"]).model
    assert [model.layer(i)[0] for i in range(4)] == ["TensordotSTU", "Attention"] * 2
    assert (model.activation, model.norm) == ("swiglu", "rms")
    assert (model.layer(0)[1], model.layer(1)[1]) == ({"num_filters": 24, "banks": "tied"}, {"num_heads": 8, "window": 1024})


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("mixers/")])
def test_task_recipes_stand_alone_and_as_files(name, folders):
    recipe = recipe_of([name], folders)
    assert recipe.model.mixer == "AR-STU"
    assert read_recipe(RECIPES / f"{name}.yaml", folders.get(recipe.data.name)) == recipe
    assert "learning_rate" in recipe_text(recipe)
    assert recipe_of([name, overlay(name, "ar-stu")], folders) == recipe, "the overlay of AR-STU changes nothing"


def test_the_image_recipe_is_the_papers(folders):
    recipe = recipe_of(["image"], folders)
    assert (recipe.model.d_model, recipe.model.num_layers, recipe.model.dropout) == (256, 6, 0.1)
    assert recipe.model.mixer_options == {"num_filters": 24, "input_lags": 3, "output_lags": 2, "initial_feedback": "zero"}
    optimizer = recipe.optimizer
    assert (recipe.training.steps, recipe.training.batch_size) == (180_000, 48)
    assert optimizer.warmup_steps_of(recipe.training.steps) == 18_000
    assert (optimizer.learning_rate, optimizer.slow_rate, optimizer.final_learning_rate) == (5e-4, 5e-5, 1e-7)
    assert optimizer.weight_decay == 0.1


def test_the_tensordot_recipe_has_flash_stus_tied_banks():
    options = read_recipe(["listops", "mixers/tensordot-stu"]).model.mixer_options
    assert options == {"num_filters": 24, "banks": "tied"}
