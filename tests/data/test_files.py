import gzip

import numpy as np
import pandas as pd
import pytest

from torchstu.data.files import DataError, column_names, read_table, weather
from torchstu.data.scaling import Scaler

GOOD = "t,a,y\n2020-01-01,1,2\n2020-01-02,3,4.5\n2020-01-03,-1e3,0\n"


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz", "d.parquet"])
def test_formats_agree(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".parquet"):
        frame = pd.DataFrame({"t": pd.date_range("2020-01-01", periods=3), "a": [1, 3, -1000], "y": [2, 4.5, 0]})
        frame.to_parquet(path)
    else:
        write(path, gzip.compress(GOOD.encode()) if name.endswith("gz") else GOOD)
    table = read_table(path, ["y", "a"], time="t")
    assert table.names == ("y", "a")
    assert table.values.dtype == np.float64
    np.testing.assert_array_equal(table.values, [[2, 1], [4.5, 3], [0, -1000]])
    np.testing.assert_array_equal(table.time, np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[ns]"))
    np.testing.assert_array_equal(table.select(["a"]), [[1], [3], [-1000]])
    assert column_names(path) == ["t", "a", "y"]


def test_numeric_times_byte_order_mark_and_quotes(tmp_path):
    path = write(tmp_path / "d.csv", '\ufefft,"a, b"\n0.5,1\n1.5,2\n')
    table = read_table(path, ["a, b"], time="t")
    np.testing.assert_array_equal(table.time, [0.5, 1.5])


@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
def test_blanks_around_names_and_columns_without_one(tmp_path, name):
    path = tmp_path / name
    frame = pd.DataFrame([[0, 1.0, 2.0, None], [1, 3.0, 4.0, None]], columns=["", " a ", "y ", " "])
    if name.endswith("csv"):
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    np.testing.assert_array_equal(read_table(path, ["y", "a"]).values, [[2, 1], [4, 3]])
    with pytest.raises(DataError, match="no column ''"):
        read_table(path, [""])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("t,a,y\n1,1,1\n2,nan,1\n", ["column 'a', row 2", "missing"]),
        ("t,a,y\n1,1,1\n2,,1\n", ["column 'a', row 2", "missing"]),
        ("t,a,y\n1,1,1\n2,3\n", ["column 'y', row 2", "missing"]),
        ("t,a,y\n1,1,1\n2,inf,1\n", ["column 'a', row 2", "inf"]),
        ("t,a,y\n1,1,1\n2,warm,1\n", ["column 'a', row 2", "'warm'", "number"]),
        ("t,a,a,y\n1,1,1,1\n2,1,1,1\n", ["'a'", "twice"]),
        ("t,,b,y,\n1,1,1,1,\n2,1,1,1,\n", ["no column 'a'", "without a name"]),
        ("t;a;y\n1;1;1\n2;1;1\n", ["no column 'a'", "';'", "must be a comma"]),
        ("t\ta\ty\n1\t1\t1\n2\t1\t1\n", ["no column 'a'", "a tab", "must be a comma"]),
        ("t,b,y\n1,1,1\n2,1,1\n", ["no column 'a'", "t, b, y"]),
        ("", ["empty"]),
        ("t,a,y\n", ["no rows"]),
        ("t,a,y\n1,1,1\n", ["one row"]),
        ("t,a,y\n1,1,1\n3,1,1\n3,1,1\n", ["column 't', row 3", "increase"]),
        ("t,a,y\n2020-01-02,1,1\n2020-01-01,1,1\n", ["column 't', row 2", "2020-01-01"]),
        ("t,a,y\n2020-01-02,1,1\nlater,1,1\n", ["column 't', row 2", "later"]),
        ("t,a,y\n2020-01-02,1,1\n,1,1\n", ["column 't', row 2", "missing"]),
        ("t,a,y\n1,1,1,7\n2,1,1,7\n", ["more values than"]),
        ("t,a,y\n1,1,1\n2,1,1,7\n", ["line 3"]),
        (b"\x89PNG\r\n\x1a\n\0\0", ["binary"]),
        (b"PK\x03\x04\0\0abc", ["binary"]),
        ("t,a,y\n1,1,1\n2,\0,1\n", ["binary"]),
        ("t,a,y\n1,1,caf\xe9\n".encode("latin-1"), ["UTF-8"]),
    ],
)
def test_refused_in_one_line_that_names_it(tmp_path, content, says):
    path = write(tmp_path / "d.csv", content)
    with pytest.raises(DataError) as error:
        read_table(path, ["a", "y"], time="t")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in says:
        assert word in message


def test_undecodable_far_below_the_header(tmp_path):
    path = write(tmp_path / "d.csv", b"a,y\n" + b"1,2\n" * 9000 + b"\xff\xfe,3\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(path, ["a", "y"])


def test_paths_that_are_no_data_file(tmp_path):
    folder = tmp_path / "f.csv"
    folder.mkdir()
    for path, word in [
        (tmp_path / "none.csv", "no such file"),
        (folder, "folder"),
        (write(tmp_path / "d.xlsx", "PK"), "suffix '.xlsx'"),
        (write(tmp_path / "d.parquet", "no parquet"), "Parquet"),
        (write(tmp_path / "d.csv.gz", "no gzip"), "CSV"),
        (write(tmp_path / "cut.csv.gz", gzip.compress(GOOD.encode() * 99)[:-30]), "CSV"),
    ]:
        with pytest.raises(DataError, match=word) as error:
            read_table(path, ["a"])
        assert "\n" not in str(error.value)


def test_parquet_values_are_checked_too(tmp_path):
    for name, column, word in [("n", [1.0, None], "NaN"), ("s", ["1", "x"], "'x'"), ("b", [True, False], "True")]:
        path = tmp_path / f"{name}.parquet"
        pd.DataFrame({"a": column}).to_parquet(path)
        with pytest.raises(DataError, match=word):
            read_table(path, ["a"])


def test_a_column_is_input_or_output(tmp_path):
    with pytest.raises(DataError, match="column 'a' is asked for twice"):
        read_table(write(tmp_path / "d.csv", GOOD), ["a", "a"])


def test_weather_is_shipped():
    table = weather()
    assert table.names == ("global_irradiance", "direct_irradiance", "wind_speed", "pressure", "temperature")
    assert table.values.shape == (8760, 5)
    assert np.isfinite(table.values).all()
    assert (np.diff(table.time) == np.timedelta64(1, "h")).all()
    assert -30 < table.values[:, 4].min() < table.values[:, 4].max() < 45


def test_scaler_round_trip_and_constant_channel():
    values = np.column_stack([np.arange(5.0), np.full(5, 0.1)])
    scaler = Scaler.from_dict(Scaler.fit(values).to_dict())
    scaled = scaler.transform(values)
    np.testing.assert_allclose(scaled[:, 0].std(), 1)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    assert scaler.std[1] == 1
    with pytest.raises(ValueError, match="inputs column 2: values too large"):
        Scaler.fit(values * [1, 1e308], "inputs")
    np.testing.assert_allclose(scaler.inverse(scaled), values)
