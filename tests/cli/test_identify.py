"""``torchstu identify``: files, figures and refusals."""

import csv
import json

import numpy as np
import pytest
import torch

from torchstu import LDS
from torchstu.cli.main import main
from torchstu.convert.system_files import read_system
from torchstu.experiments.series import load_series_model

TRUE = LDS([[0.95, 0.1], [-0.1, 0.8]], [[1.0, 0.0], [0.5, 2.0]], [[1.0, -1.0]], np.zeros((1, 2)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((300, 2))
    y = TRUE.simulate(torch.as_tensor(u)).numpy()
    y += 0.05 * y.std() * rng.standard_normal(y.shape)
    path = tmp_path_factory.mktemp("data") / "plant.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["t", "valve", "heater", "y"], *np.column_stack([np.arange(300), 3 + u, 20 + y]).tolist()])
    return path


def arguments(data, folder, *more):
    fixed = ["--inputs", "valve,heater", "--outputs", "y", "--prior", "positive", "--order", "2"]
    return ["identify", str(data), *fixed, "--output", str(folder), *more]


def refused(capsys, given, *says):
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("torchstu: error: ")
    assert error.count("\n") == 1, error
    for word in says:
        assert word in error


def test_identify_end_to_end(data, tmp_path, capsys):
    folder, exported = tmp_path / "model", tmp_path / "system.json"
    assert main(arguments(data, folder, "--sample-time", "0.1", "--time", "t", "--export", str(exported))) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors", "report.html", "system.npz"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "system.json"]
    for words in ("roll-out, %", "one step ahead, %", "past of valve", "own past", "2 states"):
        assert words in out
    page = (folder / "report.html").read_text()
    for words in ("Impulse response", "Frequency response", "valve to y", "Poles of the system", "Hz", "90% intervals"):
        assert words in page
    described = json.loads((folder / "model.json").read_text())["extra"]
    fits = {row["model"]: row["rollout"] for row in described["fit_percent"]}
    assert 92 < fits["system"] < 97  # 5 % of noise leaves 95 %
    assert described["settings"]["sample_time"] == 0.1
    for path in (folder / "system.npz", exported):
        found = read_system(path)
        assert found.sample_time == 0.1
        assert found.input_names == ("valve", "heater")
        assert found.input_level == pytest.approx([3, 3], abs=0.2)
        gain = TRUE.impulse_response(1000).sum(dim=0).numpy()
        assert found.output_level == pytest.approx(20 + gain @ (found.input_level - 3), abs=0.3)
        expected = TRUE.impulse_response(40)
        assert (found.system.impulse_response(40) - expected).abs().max() < 0.05 * expected.abs().max()
    model, settings = load_series_model(folder)
    assert settings["order"] == 2
    rows = np.array(list(csv.reader(data.open()))[1:], float)
    assert np.isfinite(model.predict(rows[:, 1:3])).all()
    assert main(["predict", str(folder), str(data), "--output", str(tmp_path / "p.csv")]) == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--order", "0"], ["--order: '0'", "from 1 to 200"]),
        (["--order", "many"], ["--order: 'many'"]),
        (["--sample-time", "-1"], ["sample_time: -1"]),
        (["--sample-time", "soon"], ["--sample-time"]),
        (["--test", "1.5"], ["test: 1.5"]),
        (["--level", "0"], ["level: 0"]),
        (["--prior", "none"], ["--prior"]),
        (["--length", "200"], ["length: 200"]),
        (["--export", "system.txt"], ["--export", ".npz, .json or .mat"]),
        (["--export", "none/system.npz"], ["there is no folder"]),
        (["--inputs", "valve,y"], ["'y' is asked for twice"]),
        (["--outputs", "z"], ["no column 'z'"]),
    ],
)
def test_bad_options_are_refused_in_one_line_and_leave_nothing(data, tmp_path, capsys, monkeypatch, more, says):
    monkeypatch.chdir(tmp_path)
    refused(capsys, arguments(data, tmp_path / "model", *more), *says)
    assert list(tmp_path.iterdir()) == []


def test_too_few_rows_and_existing_folders(data, tmp_path, capsys):
    short = tmp_path / "short.csv"
    short.write_text("".join(data.open().readlines()[:40]))
    refused(capsys, arguments(short, tmp_path / "model"), "data: 39 rows")
    refused(capsys, arguments(data, tmp_path), "exists already")
    assert list(tmp_path.iterdir()) == [short]


def test_an_identification_that_fails_late_leaves_nothing(data, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("torchstu.report.page.write_text", fail)
    refused(capsys, arguments(data, tmp_path / "model", "--export", str(tmp_path / "s.npz")), "disk is full")
    assert list(tmp_path.iterdir()) == []
