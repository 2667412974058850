import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchstu.cli.main import main
from torchstu.systems.lds import LDS


def write_rows(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    lds = LDS(np.diag([0.98, -0.8]), rng.standard_normal((2, 2)), rng.standard_normal((1, 2)), np.zeros((1, 2)))
    u = rng.standard_normal((300, 2))
    y = lds.simulate(torch.as_tensor(u)[None])[0].numpy()
    rows = np.column_stack([np.arange(300), u, 20 + y]).tolist()
    return write_rows(tmp_path_factory.mktemp("data") / "good.csv", ["t", "a", "b", "y"], rows)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "model"
    assert main(fit_arguments(data, folder)) == 0
    return folder


def fit_arguments(data, folder, *more):
    fixed = ["--inputs", "a,b", "--outputs", "y", "--time", "t", "--filters", "8", "--length", "48"]
    return ["fit", str(data), *fixed, "--output", str(folder), *more]


def refused(capsys, arguments, *says):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("torchstu: error: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for word in says:
        assert word in error
    return error


def test_fit_end_to_end(data, tmp_path, capsys):
    folder = tmp_path / "deep" / "model"
    assert main(fit_arguments(data, folder)) == 0
    out = capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors", "report.html"]
    assert out.splitlines()[-1] == str(folder / "report.html")
    for name in ("STU", "persistence", "plain autoregression", "lagged linear regression"):
        assert f"\n{name} " in out
    extra = json.loads((folder / "model.json").read_text())["extra"]
    errors = {row["model"]: row["rollout"] for row in extra["errors"]}
    assert errors["STU"] < 0.2 * min(value for name, value in errors.items() if not name.startswith("STU"))
    assert (folder / "report.html").read_text().count("<svg") == 2
    assert list((tmp_path / "deep").iterdir()) == [folder]


def test_predict_round_trip(data, model, tmp_path, capsys):
    target = tmp_path / "p.csv"
    assert main(["predict", str(model), str(data), "--output", str(target)]) == 0
    out = capsys.readouterr().out
    assert "roll-out" in out
    assert "one step ahead" in out
    header, *rows = list(csv.reader(target.open()))
    assert header == ["t", "y_rollout", "y_one_step"]
    measured = [float(row[3]) for row in list(csv.reader(data.open()))[1:]]
    values = np.array(rows, float)
    assert len(values) == 300
    assert np.mean((values[100:, 2] - measured[100:]) ** 2) < 0.05 * np.var(measured)


def test_predict_without_outputs_prints_csv(data, model, tmp_path, capsys):
    rows = [row[1:3] for row in csv.reader(data.open())]
    inputs = write_rows(tmp_path / "inputs.csv", rows[0], rows[1:])
    assert main(["predict", str(model), str(inputs)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "y_rollout"
    assert len(lines) == 301
    assert captured.err == ""


HEADER = ["t", "a", "b", "y"]
ROWS = [[i, i % 3, i % 5, i % 7] for i in range(200)]


def spoiled(row, column, value):
    return [HEADER, *[[value if (i, j) == (row, column) else x for j, x in enumerate(r)] for i, r in enumerate(ROWS)]]


BAD_FILES = {
    "nan": (spoiled(4, 1, "nan"), ["column 'a', row 5", "missing"]),
    "strings": (spoiled(4, 3, "hot"), ["column 'y', row 5", "'hot'"]),
    "duplicate headers": ([["t", "a", "b", "y", "b"], *[[*r, 0] for r in ROWS]], ["'b'", "twice"]),
    "binary": (b"\x89PNG\0\0\0", ["binary"]),
    "unknown column": ([["t", "a", "x", "y"], *ROWS], ["no column 'b'", "t, a, x, y"]),
    "empty": (b"", ["empty"]),
    "one row": ([HEADER, ROWS[0]], ["one row"]),
    "non-monotone time": (spoiled(9, 0, 3), ["column 't', row 10"]),
    "too few rows": ([HEADER, *ROWS[:12]], ["12 rows"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_is_refused_in_one_line(tmp_path, capsys, case):
    content, says = BAD_FILES[case]
    path = tmp_path / "bad.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_rows(path, content[0], content[1:])
    refused(capsys, fit_arguments(path, tmp_path / "model"), *says)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--filters", "60"], ["60", "48"]),
        (["--length", "0"], ["length: 0"]),
        (["--length", "many"], ["--length", "many"]),
        (["--outputs", "a"], ["'a'", "twice"]),
        (["--inputs", "a,,b"], ["--inputs"]),
        (["--inputs", "a,a"], ["--inputs", "'a' is there twice"]),
        (["--inputs", 'a,"b'], ["--inputs", "commas"]),
        (["--output", ""], ["--output", "no name"]),
        (["--seed", "-1"], ["seed: -1"]),
        (["--length", "211"], ["length: 211; it must be at most the 210 training rows"]),
        (["--method", "guess"], ["--method", "guess"]),
    ],
)
def test_bad_options_are_refused_in_one_line(data, tmp_path, capsys, more, says):
    refused(capsys, fit_arguments(data, tmp_path / "model", *more), *says)
    assert list(tmp_path.iterdir()) == []


def test_output_folders_are_refused_before_the_work(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torchstu.data.files.read_table", lambda *_: pytest.fail("worked before checking"))
    (tmp_path / "there").mkdir()
    refused(capsys, fit_arguments(data, tmp_path / "there"), "there", "exists already")
    file = tmp_path / "file"
    file.write_text("x")
    refused(capsys, fit_arguments(data, file / "model"), "file", "cannot be written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there"]
    if Path("/proc/self").exists():
        refused(capsys, fit_arguments(data, "/proc/model"), "/proc/model", "cannot be written")


def test_a_fit_that_fails_late_leaves_nothing(data, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("torchstu.report.page.write_text", fail)
    refused(capsys, fit_arguments(data, tmp_path / "model"), "disk is full")
    assert list(tmp_path.iterdir()) == []


def test_predict_refuses(data, model, tmp_path, capsys):
    refused(capsys, ["predict", str(tmp_path / "none"), str(data)], "none", "no model.json")
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("model.json", "model.safetensors"):
        (cut / name).write_bytes((model / name).read_bytes()[:-40])
    refused(capsys, ["predict", str(cut), str(data)], str(cut), "no readable model")
    other = write_rows(tmp_path / "other.csv", ["a", "y"], [[1, 2], [3, 4]])
    refused(capsys, ["predict", str(model), str(other)], "other.csv", "no column 'b'")
    target = tmp_path / "file" / "p.csv"
    (tmp_path / "file").write_text("x")
    refused(capsys, ["predict", str(model), str(data), "--output", str(target)], "cannot be written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "file", "other.csv"]


def test_predict_refuses_files_before_the_work(data, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torchstu.experiments.series.load_series_model", lambda *_: pytest.fail("worked before checking"))
    for target, says in {
        tmp_path / "new" / "p.csv": f"there is no folder {tmp_path / 'new'}",
        tmp_path / "p.parquet": "must end in .csv",
        data: "is DATA itself",
    }.items():
        refused(capsys, ["predict", str(model), str(data), "--output", str(target)], says)
    refused(capsys, ["filters", "--output", str(tmp_path / "new" / "bank.svg")], "there is no folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "header", "says"), [
    ("7", ["t", "y_rollout", "y_one_step"], "no errors: column 'y' is constant"),
    ("", ["t", "y_rollout"], "no errors: column 'y' is not known"),
])  # fmt: skip
def test_predict_without_errors_to_tell(data, model, tmp_path, capsys, value, header, says):
    names, *rows = csv.reader(data.open())
    path = write_rows(tmp_path / "d.csv", names, [[*row[:3], value] for row in rows])
    assert main(["predict", str(model), str(path), "--output", str(tmp_path / "p.csv")]) == 0
    assert says in capsys.readouterr().out
    written = list(csv.reader((tmp_path / "p.csv").open()))
    assert written[0] == header
    assert len(written) == 301


def test_quoted_names_with_commas(data, tmp_path):
    rows = list(csv.reader(data.open()))[1:]
    path = write_rows(tmp_path / "d.csv", ["t", "a, in m", "b", "y"], rows)
    options = ["--inputs", 'b,"a, in m"', "--outputs", "y", "--filters", "8", "--length", "24", "--autoregression", "none"]
    assert main(["fit", str(path), *options, "--output", str(tmp_path / "m")]) == 0
    report = (tmp_path / "m" / "report.html").read_text()
    assert "a, in m" in report
    assert "one step ahead.</title>" in report  # 45 test rows: drawn with all of them
    assert "None" not in report


def test_huge_values_are_told_in_one_line(data, tmp_path, capsys):
    names, *rows = csv.reader(data.open())
    path = write_rows(tmp_path / "d.csv", names, [[*row[:3], float(row[3]) * 1e200] for row in rows])
    refused(capsys, fit_arguments(path, tmp_path / "m"), "outputs column 1: values too large")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["filters", "--length", "0"], "length: 0"),
        (["filters", "--length", "8", "--count", "9"], "9 filters of length 8"),
        (["filters", "--output", "bank.png"], "bank.png"),
        (["filters", "--prior", "none"], "none"),
        (["nothing"], "nothing"),
        ([], "COMMAND"),
        (["fit", "x.csv"], "--inputs"),
        (["fit", "/no/such.csv", "--inputs", "a", "--outputs", "y", "--output", "zzz"], "/no/such.csv: no such file"),
    ],
)
def test_bad_commands(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    refused(capsys, arguments, says)
    assert list(tmp_path.iterdir()) == []


def test_interrupt_and_missing_extra(data, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchstu.data.files.read_table", interrupt)
    assert main(fit_arguments(data, tmp_path / "model")) == 130
    assert capsys.readouterr().err == "torchstu: interrupted\n"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pandas", None)
    refused(capsys, fit_arguments(data, tmp_path / "model"), "pip install 'torchstu[cli]'")


def test_no_traceback_reaches_the_terminal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torchstu.cli.main", *fit_arguments(tmp_path / "none.csv", tmp_path / "m")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"torchstu: error: {tmp_path / 'none.csv'}: no such file\n"
