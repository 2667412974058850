"""A fitted model on a stream: the numbers of the whole recording, through any stop, with honest intervals."""

import os
import random
import signal
import time

import numpy as np
import pytest
from streams import kill_and_go_on, recording, start, write_fitted, write_rows

from torchstu.cli.main import main
from torchstu.experiments.series import HeldOutErrors, load_series_model
from torchstu.experiments.series_stream import SeriesStream
from torchstu.experiments.stream_run import StreamOptions, stream_rows
from torchstu.testing import TOLERANCES

Y_TERMS = ["fixed", "learned", "none"]


@pytest.fixture(scope="module", params=Y_TERMS)
def any_model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "model"
    write_fitted(folder, autoregression=request.param)
    return load_series_model(folder)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "model"
    write_fitted(path, autoregression="learned")
    return path


def run(stream, u, y=None):
    return np.stack([stream.step(u[i], None if y is None else y[i]).values for i in range(len(u))])


def same(found, expected):
    assert np.abs(found - expected).max() <= TOLERANCES["split float64"] * np.abs(expected).max()


def test_rows_give_the_numbers_of_the_recording(any_model):
    u, y = recording(300, seed=1)
    same(run(SeriesStream(any_model), u, y), any_model.predict_next(u, y))
    same(run(SeriesStream(any_model), u), any_model.predict(u))


def test_what_is_missing_is_predicted_and_gone_on_from(any_model):
    u, y = recording(200, seed=2)
    y[100:] = np.nan
    regressor, scalers = any_model.regressor, (any_model.input_scaler, any_model.output_scaler)
    past = scalers[0].transform(u[:100]), scalers[1].transform(y[:100])
    rollout = scalers[1].inverse(regressor.predict(scalers[0].transform(u[100:]), past=past))
    same(run(SeriesStream(any_model), u, y)[100:], rollout)


def test_a_state_goes_on_to_the_last_digit(any_model):
    u, y = recording(60, seed=3)
    for options in ({}, {"adapt": True, "forgetting": 0.99}):
        whole, first, second = (SeriesStream(any_model, **options) for _ in range(3))
        expected = run(whole, u, y)
        run(first, u[:25], y[:25])
        second.load_state_dict(first.state_dict())
        assert np.array_equal(run(second, u[25:], y[25:]), expected[25:])
        assert second.rows == 60


def test_adaptation_follows_a_change(any_model):
    u, y = recording(2000, seed=4)
    y = 20 + 2 * (y - 20)  # another gain
    errors = {
        name: np.abs(run(SeriesStream(any_model, **options), u, y)[1500:] - y[1500:]).mean()
        for name, options in {
            "fixed": {},
            "adapted": {"adapt": True},
            "forgetting": {"adapt": True, "forgetting": 0.995},
        }.items()
    }
    assert errors["adapted"] < 0.8 * errors["fixed"]
    assert errors["forgetting"] < 0.6 * errors["fixed"]


def test_intervals_hold_what_they_say(any_model):
    u, y = recording(3000, seed=5)
    for level in (0.5, 0.9):
        stream = SeriesStream(any_model, level=level)
        found = [stream.step(a, b) for a, b in zip(u, y, strict=True)]
        inside = np.mean([p.low <= b <= p.high for p, b in zip(found, y, strict=True)])
        assert abs(inside - level) < 0.08  # 225 held-out rows: 2 standard deviations of the level itself are 0.07


def test_the_width_is_the_rank_of_the_errors():
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))[:, None]
    held = HeldOutErrors.of(np.zeros((99, 1)), {"one_step": errors, "rollout": -2 * errors})
    held = HeldOutErrors.from_dict(held.to_dict())
    for level in (0.01, 0.5, 0.9, 0.99):
        assert held.half_width("one_step", level) == round(100 * level)
        assert held.half_width("rollout", level) == 2 * round(100 * level)
    thinned = HeldOutErrors.of(np.zeros((5000, 1)), {"one_step": np.arange(1.0, 5001)[:, None]})
    assert len(thinned.ranks) <= 256
    assert 4501 <= thinned.half_width("one_step", 0.9) <= 4521
    for level in (0.0, 1.0, 0.991, True, "a"):
        with pytest.raises(ValueError, match=r"level: .*it must be above 0 and at most 0.99"):
            held.half_width("one_step", level)


def test_a_step_that_overflows_changes_nothing(any_model):
    u, y = recording(20, seed=6)
    stream, other = SeriesStream(any_model), SeriesStream(any_model)
    run(stream, u[:10], y[:10])
    run(other, u[:10], y[:10])
    for bad in ([np.inf, 0], [1.7e308, -1.7e308], [0.0], ["a", "b"]):
        with pytest.raises(ValueError, match=r"inputs|u_t|could not convert"), np.errstate(all="ignore"):
            stream.step(bad, y[0])
    with pytest.raises(ValueError, match=r"^outputs: shape \(2,\); it must be \(1,\)"):
        stream.step(u[0], u[0])
    assert np.array_equal(run(stream, u[10:], y[10:]), run(other, u[10:], y[10:]))


def command(words, capsys):
    status = main(["stream", *map(str, words)])
    return status, capsys.readouterr()


def test_the_command_predicts_a_file(folder, tmp_path, capsys):
    u, y = recording(500, seed=7)
    y[200:210] = np.nan
    write_rows(tmp_path / "rows.csv", u, y)
    status, said = command([folder, "--input", tmp_path / "rows.csv", "--output", tmp_path / "out.csv"], capsys)
    assert status == 0
    assert "500 rows" in said.err
    assert "half of them took" in said.err
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "row,t,y,y_low,y_high"
    found = np.array([line.split(",") for line in lines[1:]], dtype=float)
    assert np.array_equal(found[:, 0], np.arange(1, 501))
    stream = SeriesStream(load_series_model(folder)[0])
    assert np.array_equal(found[:, 2:3], run(stream, u, y))
    widths = found[:, 4] - found[:, 3]
    assert len(set(widths.round(9))) == 2  # one step ahead, and where the last outputs were missing


def test_malformed_rows_are_told_and_left_out(folder, tmp_path, capsys):
    u, y = recording(30, seed=8)
    write_rows(tmp_path / "rows.csv", u, y)
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    bad = {3: "1,2", 7: "7,a,0,1", 11: "11,inf,0,1", 13: "13,,0,1", 17: "17,0,0,abc", 19: '19,"0,0,1'}
    for place, line in bad.items():
        lines.insert(place, line)
    (tmp_path / "bad.csv").write_text("\r\n".join(lines))  # and no end of the last line
    status, said = command([folder, "--input", tmp_path / "bad.csv", "--output", tmp_path / "out.csv"], capsys)
    assert status == 0
    for place, words in {
        3: "2 fields, the header has 4", 7: "column 'a' is 'a', no number", 11: "it must be a finite number",
        13: "column 'a' is '', no number", 17: "column 'y' is 'abc'", 19: "fields, the header has 4",
    }.items():  # fmt: skip
        assert any(line.startswith(f"torchstu: row {place}: ") and words in line for line in said.err.splitlines()), place
    assert "36 rows" in said.err
    assert "6 malformed" in said.err
    command([folder, "--input", tmp_path / "rows.csv", "--output", tmp_path / "good.csv"], capsys)
    without_row = [
        [line.split(",")[1:] for line in (tmp_path / name).read_text().splitlines()] for name in ("out.csv", "good.csv")
    ]
    assert without_row[0] == without_row[1]
    words = [
        folder,
        "--input",
        tmp_path / "bad.csv",
        "--output",
        tmp_path / "out.csv",
        "--on-bad",
        "stop",
        "--state",
        tmp_path / "s",
    ]
    for _ in range(2):  # it waits for the row to be mended
        status, said = command(words, capsys)
        assert status == 2
        assert "row 3: 2 fields, the header has 4; the run stopped before it" in said.err
        assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def long_rows(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    u, y = recording(20_000, seed=9)
    y[5000:5100] = np.nan
    write_rows(path, u, y)
    return path


def killed(folder, rows, tmp_path, kills, **options):
    options = {"model": str(folder), "input": str(rows), "save_every": 0.0} | options
    stream_rows(
        StreamOptions(**options | {"output": str(tmp_path / "whole.csv")}), stopped=lambda: False, say=lambda line: None
    )
    took = {"output": str(tmp_path / "killed.csv"), "state": str(tmp_path / "state")}
    hit = kill_and_go_on(options | took, kills, random.Random(0), longest=2.0 / kills)
    assert hit > kills / 2
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob(".*")), "a draft was left"


def test_killed_and_restarted_a_file_is_the_same(folder, long_rows, tmp_path):
    killed(folder, long_rows, tmp_path, kills=4)


@pytest.mark.long
@pytest.mark.parametrize("adapt", [False, True])
def test_killed_twenty_times_a_file_is_the_same(folder, long_rows, tmp_path, adapt):
    killed(folder, long_rows, tmp_path, kills=20, adapt=adapt)


def test_through_pipes_no_row_is_lost_and_repeats_are_marked(folder, long_rows, tmp_path):
    """The reader is killed at work again and again, the writer never stops."""
    data = long_rows.read_bytes()
    read, write = os.pipe()
    writer = os.fork()
    if not writer:
        os.close(read)
        view = memoryview(data)
        while view:
            view = view[os.write(write, view[:5000]) :]
        os._exit(0)
    os.close(write)
    options = {"model": str(folder), "state": str(tmp_path / "state"), "save_every": 0.05}
    dice = random.Random(1)
    with (tmp_path / "out.csv").open("ab") as out:
        for turn in range(6):
            process = start(options, stdin=read, stdout=out.fileno())
            if turn < 5:
                time.sleep(dice.uniform(0, 0.3))
                process.kill()
            process.join()
    assert process.exitcode == 0
    os.close(read)
    os.waitpid(writer, 0)
    stream_rows(
        StreamOptions(model=str(folder), input=str(long_rows), output=str(tmp_path / "whole.csv")),
        stopped=lambda: False, say=lambda line: None,
    )  # fmt: skip
    expected = (tmp_path / "whole.csv").read_text().splitlines()
    header, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert header == f"{expected[0]},repeat"
    seen: set[str] = set()
    for line in lines:
        row, repeat = line.rsplit(",", 1)
        assert row in seen if row in seen and repeat == "1" else row not in seen, "a repeat that is not marked"
        seen.add(row)
    assert seen == set(expected[1:])
    assert [path.name for path in tmp_path.glob("state*")] != []


def test_a_signal_ends_it_between_rows(folder, tmp_path):
    """SIGTERM while it waits for more: all that came is written and kept, and it goes on with nothing repeated."""
    u, y = recording(400, seed=10)
    write_rows(tmp_path / "all.csv", u, y)
    lines = (tmp_path / "all.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "growing.csv").write_bytes(b"".join(lines[:200]) + lines[200][:5])
    options = {
        "model": str(folder), "input": str(tmp_path / "growing.csv"), "follow": True, "output": str(tmp_path / "out.csv"),
        "state": str(tmp_path / "state"),
    }  # fmt: skip
    for _ in range(2):
        process = start(options)
        wanted = 199 if _ == 0 else 400
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (tmp_path / "out.csv").exists() and (tmp_path / "out.csv").read_bytes().count(b"\n") == wanted + 1:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)
        process.join()
        assert process.exitcode == 0
        with (tmp_path / "growing.csv").open("ab") as file:
            file.write(lines[200][5:] + b"".join(lines[201:]) if wanted == 199 else b"")
    stream_rows(
        StreamOptions(model=str(folder), input=str(tmp_path / "all.csv"), output=str(tmp_path / "whole.csv")),
        stopped=lambda: False, say=lambda line: None,
    )  # fmt: skip
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_does_not_fit_is_refused(folder, tmp_path, capsys):
    u, y = recording(50, seed=11)
    rows, state, out = tmp_path / "rows.csv", tmp_path / "state", tmp_path / "out.csv"
    write_rows(rows, u, y)
    assert command([folder, "--input", rows, "--output", out, "--state", state], capsys)[0] == 0

    def refused(message, *words):
        status, said = command(words, capsys)
        assert status == 2
        assert message in said.err, said.err
        assert len(said.err.splitlines()) == 1

    begun = ["--input", rows, "--output", out, "--state", state]
    refused("has adapt False, not True", folder, *begun, "--adapt")
    refused("has level 0.9, not 0.5", folder, *begun, "--level", "0.5")
    refused("forgetting: 0.9; weights that do not adapt", folder, *begun, "--forgetting", "0.9")
    refused("level: 1.0; it must be above 0 and at most 0.9", folder, *begun, "--level", "1")
    refused("save_every: -1.0; it must be", folder, *begun, "--save-every", "-1")
    refused("--follow: with standard input", folder, "--follow")
    refused("is the input itself", folder, "--input", rows, "--output", rows)
    refused("has no model.json", tmp_path, "--input", rows)
    refused("nowhere.csv: No such file", folder, "--input", "nowhere.csv")
    refused("is no state of a stream", folder, "--input", rows, "--output", out, "--state", rows)
    (tmp_path / "one.csv").write_text("t,a\n1,2\n")
    refused("column 'b' is missing; the columns are 't', 'a'", folder, "--input", tmp_path / "one.csv")
    (tmp_path / "twice.csv").write_text("t,a,b,a\n1,2,3,4\n")
    refused("column 'a' is there 2 times", folder, "--input", tmp_path / "twice.csv")
    refused("has another header than the state", folder, "--input", tmp_path / "one.csv", "--output", out, "--state", state)
    text = rows.read_text()
    rows.write_text(text[:200])
    refused("it must not have become shorter", folder, *begun)
    rows.write_text(text)
    out.write_text("short")
    refused("has 5 bytes, and", folder, *begun)
    other = tmp_path / "other"
    write_fitted(other, autoregression="none")
    refused("is of another model", other, *begun)


def test_a_model_without_held_out_errors_has_no_intervals(any_model):
    from dataclasses import replace

    old = replace(any_model, held_out=None)
    with pytest.raises(ValueError, match=r"level: 0.9; the model has no errors of held-out rows"):
        SeriesStream(old, level=0.9)
    u, y = recording(20)
    assert np.array_equal(run(SeriesStream(old), u, y), run(SeriesStream(any_model), u, y))
