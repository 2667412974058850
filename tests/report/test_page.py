import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from torchstu.extras import MissingExtraError
from torchstu.report import figures, page
from torchstu.report.figures import COLOURS, Panel, curves, draw, figure_or_note, standalone
from torchstu.report.page import Section, Table, format_table, write_report, write_text

X = np.arange(1, 9)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def page_colours():
    style = page.resources.files("torchstu.report").joinpath("page.html").read_text()
    found = re.findall(r"--(page|ink|soft|line|band): (#[0-9a-f]+)", style)
    expand = lambda c: c if len(c) == 7 else "#" + "".join(2 * x for x in c[1:])  # noqa: E731
    return [{name: expand(colour) for name, colour in found[i : i + 5]} for i in (0, 5)]


@pytest.mark.parametrize("theme", page_colours(), ids=["light", "dark"])
def test_contrast(theme):
    for ground in ("page", "band"):
        assert contrast(theme["ink"], theme[ground]) >= 7
        assert contrast(theme["soft"], theme[ground]) >= 4.5
    for colour in COLOURS:
        assert contrast(colour, theme["page"]) >= 3


def test_svg_takes_the_pages_colours_and_has_words():
    svg = curves(
        {"STU": (X, X**-2.0), "LRU": (X, X**-1.0)},
        "K", "error", "Error <against> K",
        logy=True, bands={"STU": (X, X**-2.5, X**-1.5)}, references={"slope": (X, X**-3.0)},
    )  # fmt: skip
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == root[0].text == "Error <against> K: error against K; STU, LRU, slope."
    assert root.get("width") is None
    assert "currentColor" in svg
    assert figures._INK not in svg
    assert "#ffffff" not in svg
    colours = set(re.findall(r"(?:stroke|fill): (#[0-9a-f]{6})", svg))
    assert colours == set(COLOURS[:2])
    assert "<text" in svg
    assert "STU" in svg


def test_ids_of_two_figures_differ_and_resolve():
    one, two = curves({"a": (X, X)}), curves({"a": (X, X + 1)})
    ids = [set(re.findall(r'\sid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)) <= own
    assert curves({"a": (X, X)}) == one


def test_awkward_values_are_drawn():
    time = np.datetime64("2020-01-01") + X.astype("timedelta64[h]")
    values = np.where(X == 3, np.nan, np.where(X == 5, np.inf, X))
    assert "<path" in draw([Panel({"a": (time, values)}), Panel({"b": (X, values)}, logx=True, logy=True)])
    ElementTree.fromstring(standalone(curves({"a": (time, values)})).split("?>", 1)[1])


def test_figure_or_note_without_matplotlib(monkeypatch):
    def missing(extra, module):
        raise MissingExtraError("matplotlib is not installed")

    assert set(figure_or_note(series={"a": (X, X)})) == {"figure"}
    monkeypatch.setattr(figures, "require", missing)
    assert figure_or_note(series={"a": (X, X)}) == {"note": "pictures need pip install 'torchstu[report]'"}


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset") or (name in ("href", "xlink:href") and not value.startswith("#")):
                self.fetched.append((tag, value))


def test_page_is_whole_escaped_and_fetches_nothing(tmp_path):
    path = write_report(
        tmp_path / "r.html",
        "A <title>",
        "Lead & words.\n\nSecond.",
        [
            Section("One", "text <b>", Table(("model", "error"), [("<STU>", 1.23456e-7), ("LRU", np.inf), ("x", 3)])),
            Section("Two", figure=curves({"a": (X, X)}), note="a note"),
        ],
    )
    text = path.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert parser.fetched == []
    assert not {"script", "link", "img", "iframe"} & set(parser.tags)
    assert "@import" not in text
    for words in ("A &lt;title&gt;", "text &lt;b&gt;", "&lt;STU&gt;", "1.23e-07", "diverged", "Lead &amp; words.", "a note"):
        assert words in text
    assert "color-scheme: light dark" in text
    assert text.count("<svg") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(OSError):
        write_text(tmp_path / "none" / "r.html", "x")
    old = write_text(tmp_path / "r.html", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(old, "\ud800")
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_format_table_aligns():
    text = format_table(("model", "error"), [("STU", 1e-9), ("a longer name", np.inf), ("n", 12)])
    assert text.splitlines() == [
        "model             error",
        "-------------  --------",
        "STU               1e-09",
        "a longer name  diverged",
        "n                    12",
    ]
