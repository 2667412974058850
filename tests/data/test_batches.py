"""Files piece by piece."""

import numpy as np
import pandas as pd
import pytest

from torchstu import SpectralRegressor
from torchstu.data.batches import read_batches
from torchstu.data.files import DataError, MissingValueError


@pytest.fixture(params=["csv", "csv.gz", "parquet"])
def file(request, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(1000, 3)), columns=["b", "y", "a"])
    frame["y"] = np.convolve(frame["a"], 0.9 ** np.arange(60))[:1000]
    return write(tmp_path / f"data.{request.param}", frame), frame


def write(path, frame):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def test_pieces_are_the_file(file):
    path, frame = file
    pieces = list(read_batches(path, ["a", "b"], ["y"], rows=300))
    assert [len(u) for u, _ in pieces] == [300, 300, 300, 100]
    np.testing.assert_allclose(np.concatenate([u for u, _ in pieces]), frame[["a", "b"]].to_numpy(), rtol=1e-15)
    np.testing.assert_allclose(np.concatenate([y for _, y in pieces]), frame[["y"]].to_numpy(), rtol=1e-15)


def test_a_fit_to_a_file_is_the_fit_to_its_numbers(file):
    path, frame = file
    u, y = frame[["a", "b"]].to_numpy(), frame[["y"]].to_numpy()
    streamed = SpectralRegressor(12, length=64, ridge="auto").fit(
        read_batches(path, ["a", "b"], ["y"], rows=170), continues=True
    )
    whole = SpectralRegressor(12, length=64, ridge=streamed.ridge_used, ridge_power=streamed.ridge_power_used).fit(u, y)
    np.testing.assert_allclose(streamed.predict(u), whole.predict(u), atol=1e-9)
    assert streamed.residual < 1e-4


def test_missing_outputs_are_allowed_where_asked(file):
    path, frame = file
    frame.loc[[3, 500], "y"] = np.nan
    write(path, frame)
    with pytest.raises(MissingValueError, match=r"column 'y', row 4: a missing value"):
        list(read_batches(path, ["a"], ["y"], rows=100))
    y = np.concatenate([y for _, y in read_batches(path, ["a"], ["y"], rows=100, missing=True)])
    np.testing.assert_array_equal(np.isnan(y[:, 0]).nonzero()[0], [3, 500])
    frame.loc[700, "a"] = np.nan
    write(path, frame)
    with pytest.raises(MissingValueError, match=r"column 'a', row 701"):
        list(read_batches(path, ["a"], ["y"], rows=100, missing=True))


def test_bad_files_are_refused(file, tmp_path):
    path, frame = file
    for says, call in {
        "no column 'z'; there are b, y, a": lambda: read_batches(path, ["z"], ["y"]),
        "'a' is asked for twice": lambda: read_batches(path, ["a"], ["a"]),
        "inputs: no names": lambda: read_batches(path, [], ["a"]),
        "rows: 0": lambda: read_batches(path, ["a"], ["y"], rows=0),
        "no such file": lambda: read_batches(tmp_path / "none.csv", ["a"], ["y"]),
    }.items():
        with pytest.raises(ValueError, match=says):
            call()
    frame = frame.astype(object)
    frame.loc[900, "a"] = "x"
    bad = tmp_path / "bad.csv"
    frame.to_csv(bad, index=False)
    with pytest.raises(DataError, match=r"column 'a', row 901: 'x'; it must be a finite number"):
        list(read_batches(bad, ["a"], ["y"], rows=400))
