"""Recipes as files: laid over one another, checked with the key's path, written so that they read back equal."""

from dataclasses import replace

import pytest
import torch

from torchstu.data.files import DataError
from torchstu.data.registry import DATASETS
from torchstu.training.recipe_file import merged, overlaid, parse_yaml, read_recipe, recipe_from, shipped_recipes, write_recipe
from torchstu.training.typed import errors_under

BASE = """
data: {name: toy, options: {size: 8}}
model: {d_model: 8, num_layers: 2, length: 64, mixer: AR-STU, mixer_options: {num_filters: 4}}
training: {steps: 3}
optimizer: {learning_rate: 1e-3}
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def test_later_files_and_overrides_go_over_earlier_ones(base, tmp_path):
    (tmp_path / "over.yaml").write_text("model: {d_model: 16}\nseed: 5")
    recipe = read_recipe([base, tmp_path / "over.yaml"], {"seed": 7, "data.options.task": "step regression"})
    assert (recipe.model.d_model, recipe.model.num_layers, recipe.seed) == (16, 2, 7)
    assert recipe.data.options == {"size": 8, "task": "step regression"}
    assert recipe.optimizer.learning_rate == 1e-3


def test_options_go_with_the_mixer_and_the_data_set_they_are_for(base):
    assert read_recipe(base, {"model.mixer": "LRU"}).model.mixer_options == {}
    assert read_recipe(base, {"model.mixer": "AR-STU"}).model.mixer_options == {"num_filters": 4}
    again = read_recipe(base, {"model.mixer": "LRU", "model.mixer_options.state_dim": 3})
    assert again.model.mixer_options == {"state_dim": 3}
    assert merged(base, {"data.name": "other"})["data"] == {"name": "other"}


def test_several_mixers_have_options_each(base):
    options = {"model.mixer": ["STU", "Attention"], "model.mixer_options": {"STU": {"num_filters": 3}}}
    assert read_recipe(base, options).model.layer(0) == ("STU", {"num_filters": 3})
    options["model.mixer_options"] = {"Attention": {"num_filters": 3}}
    with pytest.raises(
        ValueError, match=r"^model\.mixer_options\.Attention\.num_filters: unknown; it must be one of num_heads"
    ):
        read_recipe(base, options)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model.d_modle", 4, "unknown; it must be one of d_model, num_layers, .*; did you mean d_model?"),
        ("models", {}, "unknown; it must be one of data, model, training, optimizer, pooling, seed; did you mean model?"),
        ("model.d_model", "x", "'x'; it must be an integer"),
        ("model.d_model", 4.5, "4.5; it must be an integer"),
        ("model.d_model", True, "True; it must be an integer"),
        ("model.d_model", 0, "0; it must be at least 1"),
        ("model.d_model", None, "None; it must be an integer"),
        ("model.dropout", "0.1", "'0.1'; it must be a number"),
        ("model.dropout", 1, r"1.0; it must be in \[0, 1\)"),
        ("model.norm", "x", "'x'; it must be one of 'layer', 'rms', 'batch', null"),
        ("model.activation", None, "'layer'; it must be None without activation"),
        ("model.norm_position", None, "None; it must be 'pre' or 'post'"),
        ("model.bidirectional", 1, "1; it must be true or false"),
        ("model.mixer", ["STU", 3], r"\['STU', 3\]; it must be a text or a list of texts"),
        ("model.mixer", "LRUU", "'LRUU'; it must be one of 'STU', 'AR-STU', "),
        ("model.mixer_options", [], r"\[\]; it must be a mapping"),
        ("model.mixer_options.state_dim", 3, "unknown; it must be one of num_filters, "),
        ("model.mixer_options.d_in", 3, "unknown; it must be one of num_filters, "),
        ("model.mixer_options.num_filters", 0, "0; it must be at least 1"),
        ("model.mixer_options.num_filters", "a", "'a'; it must be an integer"),
        ("model.mixer_options.num_filters", 65, "65; it must be at most length=64"),
        ("model.mixer_options.prior", "none", "'none'; it must be one of"),
        ("model.mixer_options.mode", "x", "'x'; it must be one of 'auto', 'fft', 'block'"),
        ("data", 3, "3; it must be a mapping of name, options"),
        ("data.name", "nothing", "'nothing'; it must be one of "),
        ("data.options", 3, "3; it must be a mapping"),
        ("data.options.sizes", 3, "unknown; it must be one of task, size, held_out, seed; did you mean size?"),
        ("data.options.size", 3.0, "3.0; it must be an integer"),
        ("training", None, "None; it must be a mapping of steps, batch_size, "),
        ("training.patience", "None", r"'None'; it must be an integer or null \(in YAML: null\)"),
        ("training.precision", 32, "32; it must be one of '32-true', '64-true', 'bf16-mixed', '16-mixed'"),
        ("optimizer.learning_rate", [1], r"\[1\]; it must be a number"),
        ("pooling", "max", "'max'; it must be one of 'mean', 'last', 'attention'"),
        ("a..b", 3, "no key; it must be names with dots between"),
        ("model.d_model.x", 3, "{'x': 3}; it must be an integer".replace("{", r"\{").replace("}", r"\}")),
    ],
)
def test_errors_name_the_path_the_value_and_what_is_allowed(base, key, value, says):
    path = {"model.d_model.x": "model.d_model", "model.activation": "model.norm"}.get(key, key)
    with pytest.raises(ValueError, match=rf"^{path}: {says}") as error:
        read_recipe(base, {key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["data", "data.name", "model.length", "training.steps"])
def test_what_must_be_given(base, key):
    values = merged(base)
    *parents, last = key.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    del inner[last]
    with pytest.raises(ValueError, match=rf"^{key}: missing; it must be "):
        recipe_from(values)


@pytest.mark.parametrize(
    ("name", "argument", "says"),
    [
        ("lra_text", "folder", "a text: aclImdb of the Large Movie Review Dataset (Maas et al., ACL 2011), with "),
        ("lra_listops", "folder", "a text: listops-1000 of lra_release.gz of google-research/long-range-arena, with "),
        ("lra_retrieval", "folder", "a text: tsv_data of lra_release.gz of google-research/long-range-arena, with "),
        (
            "lra_pathfinder",
            "folder",
            "a text: pathfinder32 or pathfinder128 of lra_release.gz of google-research/long-range-arena",
        ),
        ("sequential_cifar", "folder", "a text: cifar-10-batches-bin of cifar-10-binary.tar.gz (www.cs.toronto.edu/"),
        ("series", "outputs", "a list of texts: columns; a forecast may do without inputs"),
        ("memory_task", "task", "a text: a name in `torchstu.data.tasks.TASKS`"),
        ("given", "size", "an integer"),
    ],
)
def test_arguments_without_default_of_a_data_set_must_be_given(base, monkeypatch, name, argument, says):
    monkeypatch.setitem(DATASETS, "given", f"{__name__}:undocumented")
    with pytest.raises(ValueError) as told:
        read_recipe(base, {"data.name": name})
    assert str(told.value).startswith(f"data.options.{argument}: missing; it must be {says}")
    assert "\n" not in str(told.value)


def undocumented(*, size: int):
    """Nothing on its argument."""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "copying", "item": 3}, r"item: unknown; it must be one of .*items, symbols.*; did you mean items\?"),
        ({"task": "copying", "items": "x"}, "items: 'x'; it must be an integer"),
        ({"task": "copying", "count": 3}, "count: unknown"),
        ({"task": "adding", "items": 3}, "items: unknown"),
    ],
)
def test_options_of_memory_tasks_are_those_of_the_task(base, options, says):
    read_recipe(base, {"data.name": "memory_task", "data.options": {"task": "copying", "items": 3, "length": 20}})
    with pytest.raises(ValueError, match=rf"^data\.options\.{says}"):
        read_recipe(base, {"data.name": "memory_task", "data.options": options})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is there twice"),
        ("a: [", "line 1: expected the node content"),
        ("3", "holds 3; it must hold a mapping"),
        ("a: !!python/object/apply:os.mkdir ['made']", "line 1: could not determine a constructor"),
        ("a: !torch.nn.Linear {}", "line 1: could not determine a constructor"),
    ],
)
def test_files_that_are_no_plain_yaml(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        read_recipe(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "made").exists()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"recipe: 'no\.yaml'; there is no such file"):
        read_recipe("no.yaml")
    with pytest.raises(
        FileNotFoundError, match="recipe: 'listop'; it must be a YAML file or one of image, image-small, listops, "
    ):
        read_recipe("listop")
    with pytest.raises(ValueError, match="recipe: none; it must be"):
        read_recipe([])
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_recipe(tmp_path / "bytes.yaml")


def test_class_paths_stay_words(base):
    option = {"class_path": "os.getcwd"}
    with pytest.raises(
        ValueError, match=r"^model\.mixer_options\.num_filters: \{'class_path': 'os\.getcwd'\}; it must be an int"
    ):
        read_recipe(base, {"model.mixer_options.num_filters": option})


def test_a_written_recipe_reads_back_equal(base, tmp_path):
    options = {"model.mixer": ["STU", "LRU"], "model.mixer_options": {"LRU": {"r_min": 0.1}}, "model.norm": None}
    recipe = read_recipe(base, options | {"optimizer.final_learning_rate": 1e-07, "model.activation": None})
    write_recipe(tmp_path / "out.yaml", recipe)
    assert read_recipe(tmp_path / "out.yaml") == recipe
    for value in (torch.ones(2), (1, 2)):
        odd = replace(recipe, data=replace(recipe.data, options={"size": value}))
        with pytest.raises(ValueError, match="recipe: "):
            write_recipe(tmp_path / "odd.yaml", odd)
    assert not (tmp_path / "odd.yaml").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-.5", -0.5), ("1.", 1.0), ("1e3", 1000.0), ("12", 12), ("null", None), ("true", True), ("a b", "a b"),
     ("1e", "1e"), ("1.2.3", "1.2.3"), ("[1, 2e1]", [1, 20.0]), (".inf", float("inf"))],
)  # fmt: skip
def test_numbers_of_yaml(text, value):
    read = parse_yaml(text, "x")
    assert read == value
    assert type(read) is type(value)


def test_layers_leave_what_is_below_as_it_was():
    below = {"model": {"mixer": "STU", "mixer_options": {"num_filters": 3}}}
    assert overlaid(below, {"model": {"mixer": "LRU"}}) == {"model": {"mixer": "LRU"}}
    assert below == {"model": {"mixer": "STU", "mixer_options": {"num_filters": 3}}}


OPTIONS = {"size": 0, "folder": "/none", "file": "a.csv", "outputs": ["load", "temp"], "time": "when"}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("size: 0; it must be"), "data.options.size: 0; it must be"),
        (FileNotFoundError("/none/a.tsv: no such file"), "data.options.folder: /none/a.tsv: no such file"),
        (ValueError("data.name: already told"), "data.name: already told"),
        (TypeError("something else"), "data.options: something else"),
        (DataError("a.csv: no such file"), "data.options.file: a.csv: no such file"),
        (DataError("a.csv: no column 'temp'; there are b"), "data.options.outputs: a.csv: no column 'temp'; there are b"),
        (ValueError("column 'when': not read"), "data.options.time: column 'when': not read"),
    ],
)
def test_errors_of_a_data_set_name_its_argument(error, says):
    with pytest.raises(ValueError) as told, errors_under("data.options", OPTIONS):
        raise error
    assert str(told.value) == says


def test_shipped_recipes_say_what_they_are():
    names = shipped_recipes()
    tasks = {"listops", "text", "retrieval", "image", "pathfinder", "pathx"}
    mixers = {f"mixers/{name}" for name in ("ar-stu", "stu", "tensordot-stu", "attention")}
    by_task = {f"mixers/{name}-{task}" for name in ("s4d", "lru") for task in (*tasks, "small")}
    assert names.keys() >= tasks | {f"{task}-small" for task in tasks} | mixers | by_task | {f"{name}-small" for name in mixers}
    assert all(20 < len(text) < 120 for text in names.values())
