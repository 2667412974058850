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
        with pytest.raises(ValueError, match=r"inputs|column 'a' is|could not convert"), np.errstate(all="ignore"):
            stream.step(bad, y[0])
    with pytest.raises(ValueError, match=r"^outputs: shape \(2,\); it must be \(1,\)"):
        stream.step(u[0], u[0])
    assert np.array_equal(run(stream, u[10:], y[10:]), run(other, u[10:], y[10:]))


def command(words, capfd):
    status = main(["stream", *map(str, words)])
    return status, capfd.readouterr()


def test_the_command_predicts_a_file(folder, tmp_path, capfd):
    u, y = recording(500, seed=7)
    y[200:210] = np.nan
    write_rows(tmp_path / "rows.csv", u, y)
    status, said = command([folder, "--input", tmp_path / "rows.csv", "--output", tmp_path / "out.csv"], capfd)
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


def test_malformed_rows_are_told_and_gone_through(folder, tmp_path, capfd):
    u, y = recording(30, seed=8)
    write_rows(tmp_path / "rows.csv", u, y)
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    bad = {3: "2,2", 7: "6,a,0,1", 11: "10,inf,0,1", 13: "12,,0,1", 19: '18,"0,0,1', 23: "22,1e9,0,1", 25: f"24,{'x' * 99},0,1"}
    lines = [bad.get(place, line) for place, line in enumerate(lines)]
    lines[17] = lines[17].rsplit(",", 1)[0] + ",abc"
    lines[18] = lines[18].rsplit(",", 1)[0] + ", NA "
    (tmp_path / "bad.csv").write_text("\ufeff\r\n" + "\r\n\r\n".join(lines))  # and no end of the last line
    status, said = command([folder, "--input", tmp_path / "bad.csv", "--output", tmp_path / "out.csv"], capfd)
    assert status == 0
    for place, words in {
        3: "2 fields, the header has 4; skipped", 7: "column 'a' is 'a', no number", 11: "it must be a finite number",
        13: "column 'a' is '', no number", 17: "column 'y' is 'abc', no number; taken as missing", 19: "unexpected end of data",
        23: "column 'a' is 1000000000.0, more than 10000 standard deviations", 25: f"column 'a' is '{'x' * 40}…', no number",
    }.items():  # fmt: skip
        assert any(line.startswith(f"torchstu: row {place}: ") and words in line for line in said.err.splitlines()), place
    assert "30 rows" in said.err
    assert "7 malformed" in said.err
    stream, expected = SeriesStream(load_series_model(folder)[0]), []
    for row in range(1, 31):
        if row in bad:
            stream.skip()
        else:
            expected.append(stream.step(u[row - 1], None if row in (17, 18) else y[row - 1]).values)
    found = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert [int(line[0]) for line in found] == [row for row in range(1, 31) if row not in bad]
    assert np.array_equal(np.array([[float(line[2])] for line in found]), np.array(expected))


def test_a_malformed_row_may_stop_it(folder, tmp_path, capfd):
    u, y = recording(30, seed=8)
    write_rows(tmp_path / "rows.csv", u, y)
    lines = (tmp_path / "rows.csv").read_text().splitlines(keepends=True)
    (tmp_path / "bad.csv").write_text("".join([*lines[:3], "2,x,0,1\n", *lines[4:]]))
    words = [folder, "--input", tmp_path / "bad.csv", "--on-bad", "stop"]
    status, said = command(words, capfd)  # without a state
    assert status == 2
    assert "row 3: column 'a' is 'x', no number; the run stopped before it, go on with --on-bad skip" in said.err
    words += ["--output", tmp_path / "out.csv", "--state", tmp_path / "s"]
    for _ in range(2):
        assert command(words, capfd)[0] == 2
        assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    (tmp_path / "bad.csv").write_text("".join(lines))  # mended
    assert command(words, capfd)[0] == 0
    command([folder, "--input", tmp_path / "rows.csv", "--output", tmp_path / "whole.csv"], capfd)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_times_increase_and_gaps_can_be_filled(folder, tmp_path, capfd):
    u, y = recording(40, seed=12)
    write_rows(tmp_path / "rows.csv", u, y)
    lines = (tmp_path / "rows.csv").read_text().splitlines(keepends=True)
    kept = [*lines[:11], lines[10], lines[5], *lines[16:21], "noon" + lines[21][2:], *lines[22:]]
    (tmp_path / "gaps.csv").write_text("".join(kept))
    for fill in (False, True):
        output = tmp_path / f"{fill}.csv"
        words = [folder, "--input", tmp_path / "gaps.csv", "--output", output]
        status, said = command(words + ["--fill-gaps"] * fill, capfd)
        assert status == 0
        assert "row 11: time '9' is not after that of the row before; skipped" in said.err
        assert "row 12: time '4' is not after that of the row before; skipped" in said.err
        assert "row 18: time 'noon' is no number and no ISO date; skipped" in said.err
        assert ("row 13: 5 rows are missing before it; gone through with the inputs before" in said.err) is fill
        stream, expected = SeriesStream(load_series_model(folder)[0], level=0.9), []
        for row in range(1, 41):
            if 11 <= row <= 15 or row == 21:
                if fill or row == 21:
                    stream.skip()
            else:
                expected.append(stream.step(u[row - 1], y[row - 1]))
        found = np.array([line.split(",")[2:] for line in output.read_text().splitlines()[1:]], dtype=float)
        assert np.array_equal(found, np.array([np.concatenate(row) for row in expected]))
    dates = [f"2024-03-{1 + i // 24:02}T{i % 24:02}:00" for i in range(40)]
    dated = [lines[0], *(f"{date},{line.split(',', 1)[1]}" for date, line in zip(dates, lines[1:], strict=True))]
    (tmp_path / "dated.csv").write_text("".join(dated[:11] + dated[13:]))
    status, said = command([folder, "--input", tmp_path / "dated.csv", "--output", output, "--fill-gaps"], capfd)
    assert "row 11: 2 rows are missing before it" in said.err


def test_a_time_that_is_none_does_not_stop_those_after_it(folder, tmp_path, capfd):
    u, y = recording(10, seed=18)
    write_rows(tmp_path / "rows.csv", u, y)
    for wild in ("nan", "inf"):
        lines = (tmp_path / "rows.csv").read_text().splitlines(keepends=True)
        lines[1] = f"{wild},{lines[1].split(',', 1)[1]}"
        (tmp_path / "wild.csv").write_text("".join(lines))
        said = command([folder, "--input", tmp_path / "wild.csv", "--output", tmp_path / "out.csv"], capfd)[1].err
        assert f"row 1: time '{wild}'; it must be a finite number or an ISO date; skipped" in said
        assert "1 malformed" in said


def test_a_header_may_come_again_with_its_columns_in_another_order(folder, tmp_path, capfd):
    u, y = recording(20, seed=13)
    write_rows(tmp_path / "rows.csv", u, y)
    header, *rows = (tmp_path / "rows.csv").read_text().splitlines()
    turned = [",".join(np.array(line.split(","))[[3, 2, 1, 0]]) for line in (header, *rows[10:])]
    (tmp_path / "both.csv").write_text("\n".join([header, *rows[:5], header, *rows[5:10], *turned]) + "\n")
    for name in ("rows", "both"):
        status, said = command([folder, "--input", tmp_path / f"{name}.csv", "--output", tmp_path / f"{name}.out"], capfd)
        assert status == 0
        assert "0 malformed" in said.err
    assert (tmp_path / "rows.out").read_bytes() == (tmp_path / "both.out").read_bytes()


def test_an_unfinished_last_line_waits(folder, tmp_path, capfd):
    u, y = recording(20, seed=14)
    write_rows(tmp_path / "rows.csv", u, y)
    data = (tmp_path / "rows.csv").read_bytes()
    words = [folder, "--input", tmp_path / "growing.csv", "--output", tmp_path / "out.csv", "--state", tmp_path / "s"]
    (tmp_path / "growing.csv").write_bytes(data[:500])
    assert "the last line has no end; its" in command(words, capfd)[1].err
    (tmp_path / "growing.csv").write_bytes(data)
    command(words, capfd)
    command([folder, "--input", tmp_path / "rows.csv", "--output", tmp_path / "whole.csv"], capfd)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_one_wild_value_is_not_remembered(any_model):
    u, y = recording(300, seed=15)
    stream, other = SeriesStream(any_model, adapt=True), SeriesStream(any_model, adapt=True)
    y[100] = np.nan
    run(other, u[:101], y[:101])
    y[100] = 1e30  # missing
    run(stream, u[:101], y[:101])
    with pytest.raises(ValueError, match=r"column 'b' is 1e\+30, more than 10000 standard deviations"):
        stream.step([0.0, 1e30], y[0])
    assert np.array_equal(run(stream, u[101:], y[101:]), run(other, u[101:], y[101:]))
    with pytest.raises(ValueError, match=r"limit: 0; it must be above 0"):
        SeriesStream(any_model, limit=0)


def test_rows_that_are_missing_take_their_time(any_model):
    u, y = recording(100, seed=16)
    held = np.vstack([u[:50], np.repeat(u[49:50], 5, 0), u[50:]])
    gone = np.vstack([y[:50], np.full((5, 1), np.nan), y[50:]])
    stream = SeriesStream(any_model, level=0.5)
    first = run(stream, u[:50], y[:50])
    stream.skip(5)
    again = SeriesStream(any_model, level=0.5)
    again.load_state_dict(stream.state_dict())
    whole = run(SeriesStream(any_model), held, gone)
    assert np.array_equal(first, whole[:50])
    found = [again.step(a, b) for a, b in zip(u[50:], y[50:], strict=True)]
    assert np.array_equal([p.values for p in found], whole[55:])
    widths = [float(p.high[0] - p.low[0]) for p in found]
    memory = any_model.regressor.layer.length
    assert widths[0] == pytest.approx(2 * any_model.held_out.half_width("rollout", 0.5)[0])
    assert len(widths) < memory or widths[-1] == pytest.approx(2 * any_model.held_out.half_width("one_step", 0.5)[0])
    again.skip(memory + 1)
    same(run(again, u[:20], y[:20]), run(SeriesStream(any_model), u[:20], y[:20]))
    with pytest.raises(ValueError, match="steps: 0; it must be at least 1"):
        again.skip(0)


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
    expected = whole_output(folder, long_rows, tmp_path / "whole.csv")
    header, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert header == f"{expected[0]},repeat"
    seen: set[str] = set()
    for line in lines:
        row, repeat = line.rsplit(",", 1)
        assert row in seen if row in seen and repeat == "1" else row not in seen, "a repeat that is not marked"
        seen.add(row)
    assert seen == set(expected[1:])
    assert [path.name for path in tmp_path.glob("state*")] != []


def whole_output(folder, rows, path):
    stream_rows(
        StreamOptions(model=str(folder), input=str(rows), output=str(path)), stopped=lambda: False, say=lambda line: None
    )
    return path.read_text().splitlines()


CRASHES = [(name, count, after) for name in ("pwrite", "ftruncate", "fsync", "replace", "chmod", "pread") for count in (1, 2, 3)
           for after in (False, True)]  # fmt: skip


@pytest.fixture(scope="module")
def short_rows(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    u, y = recording(150, seed=17)
    y[50:60] = np.nan
    write_rows(path, u, y)
    return path


def test_it_may_die_at_any_call_from_file_to_file(folder, short_rows, tmp_path):
    whole_output(folder, short_rows, tmp_path / "whole.csv")
    died = 0
    for number, crash in enumerate(CRASHES):
        files = {"output": str(tmp_path / f"{number}.csv"), "state": str(tmp_path / f"{number}.state")}
        options = {"model": str(folder), "input": str(short_rows), "save_every": 0.0} | files
        for each in (crash, crash, None):  # twice at the same place: the second time going on
            process = start(options, crash=each, chunk=1000)
            process.join()
            died += process.exitcode == -signal.SIGKILL
        assert process.exitcode == 0
        assert (tmp_path / f"{number}.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes(), crash
    assert died > len(CRASHES)


@pytest.mark.parametrize("save_every", [0.0, 100.0])
def test_it_may_die_at_any_call_in_pipes(folder, short_rows, tmp_path, save_every):
    """All rows arrive, and a row that comes twice is marked, with a state that is saved always or never."""
    header, *expected = whole_output(folder, short_rows, tmp_path / "whole.csv")
    crashes = [*CRASHES, *(("splice", count, after) for count in (1, 2, 5) for after in (False, True)),
               *(("write", count, after) for count in (1, 2, 3) for after in (False, True))]  # fmt: skip
    died = 0
    for number, crash in enumerate(crashes):
        read, write = os.pipe()
        assert os.write(write, short_rows.read_bytes()) == short_rows.stat().st_size
        os.close(write)
        options = {"model": str(folder), "save_every": save_every, "state": str(tmp_path / f"{number}.state")}
        path = tmp_path / f"{number}.csv"
        with path.open("ab") as out:
            for each in (crash, crash, None):
                process = start(options, stdin=read, stdout=out.fileno(), crash=each, chunk=1000)
                process.join()
                died += process.exitcode == -signal.SIGKILL
        os.close(read)
        assert process.exitcode == 0
        seen: set[str] = set()
        for line in path.read_text().splitlines():
            row, mark = line.rsplit(",", 1)
            if mark != "repeat":
                assert row not in seen or mark == "1", (crash, line)
                seen.add(row)
        assert seen == set(expected), crash
        assert f"{header},repeat" == path.read_text().splitlines()[0]
    assert died > len(crashes) / 2


def test_one_process_at_a_time_has_a_state(folder, short_rows, tmp_path, capfd):
    options = {
        "model": str(folder), "input": str(short_rows), "follow": True, "output": str(tmp_path / "out.csv"),
        "state": str(tmp_path / "state"),
    }  # fmt: skip
    process = start(options)
    wait_for(tmp_path / "out.csv", 151)
    words = ["--input", short_rows, "--output", tmp_path / "other.csv", "--state", tmp_path / "state"]
    assert "another process uses it" in command([folder, *words], capfd)[1].err
    process.kill()
    process.join()
    assert not (tmp_path / "other.csv").read_bytes()


def wait_for(path, lines):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") == lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} has not got {lines} lines")


def test_what_came_is_saved_while_nothing_comes(folder, short_rows, tmp_path):
    read, write = os.pipe()
    options = {"model": str(folder), "save_every": 0.1, "state": str(tmp_path / "state"), "output": str(tmp_path / "out.csv")}
    process = start(options, stdin=read)
    os.close(read)
    os.write(write, short_rows.read_bytes()[:1000])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # the journal is as short as the unfinished line
        journals = list(tmp_path.glob("state.journal-*"))
        if (tmp_path / "out.csv").exists() and len(journals) == 1 and 0 < journals[0].stat().st_size < 100:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("nothing was saved")
    process.kill()
    process.join()
    os.close(write)


def test_a_log_that_is_replaced_is_followed(folder, short_rows, tmp_path):
    header, *lines = short_rows.read_text().splitlines(keepends=True)
    log = tmp_path / "log.csv"
    log.write_text("".join([header, *lines[:50]]))
    options = {"model": str(folder), "input": str(log), "follow": True, "output": str(tmp_path / "out.csv")}
    process = start(options)
    wait_for(tmp_path / "out.csv", 51)
    log.rename(tmp_path / "log.1")
    log.write_text("".join([header, *lines[50:100]]))
    wait_for(tmp_path / "out.csv", 101)
    with log.open("r+") as file:  # copied away and cut to nothing
        file.truncate(0)
    time.sleep(0.3)
    with log.open("a") as file:
        file.write("".join(lines[100:]))
    wait_for(tmp_path / "out.csv", 151)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "out.csv").read_text().splitlines() == whole_output(folder, short_rows, tmp_path / "whole.csv")


def test_a_stop_while_nobody_reads_loses_no_row(folder, long_rows, tmp_path):
    read, write = os.pipe()
    options = {"model": str(folder), "input": str(long_rows), "state": str(tmp_path / "state"), "save_every": 0.0}
    process = start(options, stdout=write)
    time.sleep(1.5)  # the pipe is full
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 0
    os.close(write)
    with os.fdopen(read) as file:
        first = file.read().splitlines()
    with (tmp_path / "rest.csv").open("wb") as out:
        process = start(options, stdout=out.fileno())
        process.join()
    rest = (tmp_path / "rest.csv").read_text().splitlines()
    rows = [line.rsplit(",", 1) for line in [*first[1:], *rest]]
    seen: set[str] = set()
    for row, mark in rows:
        assert row not in seen or mark == "1"
        seen.add(row)
    assert seen == set(whole_output(folder, long_rows, tmp_path / "whole.csv")[1:])


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
    whole_output(folder, tmp_path / "all.csv", tmp_path / "whole.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_does_not_fit_is_refused(folder, tmp_path, capfd):
    u, y = recording(50, seed=11)
    rows, state, out = tmp_path / "rows.csv", tmp_path / "state", tmp_path / "out.csv"
    write_rows(rows, u, y)
    (tmp_path / "model.csv").write_text("no state")
    assert command([folder, "--input", rows, "--output", out, "--state", state], capfd)[0] == 0
    kept = out.read_bytes()

    def refused(message, *words):
        status, said = command(words, capfd)
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
    refused("is no state of a stream", folder, "--input", rows, "--output", tmp_path / "new", "--state", tmp_path / "model.csv")
    refused("is the input itself", folder, "--input", rows, "--state", rows)
    refused("is the output itself", folder, "--input", rows, "--output", out, "--state", out)
    refused("it must be a file in a folder that is there", folder, *begun[:4], "--state", tmp_path / "nowhere" / "s")
    refused("has level 0.9, not None", folder, *begun, "--level", "0")
    refused("has output 'a file', not 'a stream'", folder, "--input", rows, "--state", state)
    refused("bytes already, and the state is new", folder, "--input", rows, "--output", out, "--state", tmp_path / "s2")
    (tmp_path / "other.csv").write_text(rows.read_text().replace("\n1,", "\n1.5,"))
    refused("than those that were read; give the same file", folder, "--input", tmp_path / "other.csv", *begun[2:])
    (tmp_path / "one.csv").write_text("t,a\n1,2\n")
    refused("column 'b' is missing; the columns are 't', 'a'", folder, "--input", tmp_path / "one.csv")
    (tmp_path / "twice.csv").write_text("t,a,b,a\n1,2,3,4\n")
    refused("column 'a' is there 2 times", folder, "--input", tmp_path / "twice.csv")
    refused("it must not have become shorter", folder, "--input", tmp_path / "one.csv", *begun[2:])
    (tmp_path / "long.csv").write_text("x" * 2_000_000)
    refused("a line of more than 1048576 bytes", folder, "--input", tmp_path / "long.csv")
    assert out.read_bytes() == kept
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
