"""Shares as coloured cells."""

import re

import numpy as np
import pytest

from torchstu.report.heatmap import heatmap

VALUES = [[0.0, 0.5, 1.0], [np.nan, 0.25, 0.75]]
TEXTS = [["none", "half", "all\nof it"], ["never drawn", "a", "b"]]


def draw(values=VALUES, texts=TEXTS):
    return heatmap(values, ["one", "two <3"], ["0.1", "1", "10"], texts=texts, xlabel="learning rate", title="Shares")


def test_cells_have_words_names_and_a_text_alternative():
    svg = draw()
    words = re.sub(r"<[^>]+>", " ", svg)
    for word in ("none", "half", "of it", "one", "two &lt;3", "learning rate", "Shares"):
        assert word in words
    assert "never drawn" not in words  # an empty cell
    assert 'role="img"' in svg
    assert "<image" not in svg  # cells are paths, not pixels


def test_words_are_light_on_dark_cells_and_dark_on_light_ones():
    def colour(word):
        return re.search(r"fill: (#\w+)[^>]*>" + word, draw()) or re.search(r"<text[^>]*>" + word, draw())

    assert "#ffffff" in colour("none").group(0)
    assert "#ffffff" not in colour("all").group(0)


def test_shares_outside_their_range_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"values: 0 to 2"):
        draw([[0, 1, 2], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"values: shape \(1, 3\)"):
        draw([[0, 1, 1]])
    with pytest.raises(ValueError, match="values"):
        draw(texts=[["a"], ["b"]])
