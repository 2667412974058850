"""ListOps: every label against an evaluation of the expression, every law of the definition, the same bytes again."""

import random
from hashlib import sha256
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from torchstu.data.listops import SYMBOLS, evaluate, listops, to_text
from torchstu.data.sequences import collate

SMALL = {"train": 1500, "validation": 100, "test": 100, "min_length": 16, "max_length": 128, "max_depth": 5}


def parse(words):
    """A nested list (operator, arguments...) or a digit; the parser of this test."""
    word = words.pop(0)
    if not word.startswith("["):
        return int(word)
    tree = [word[1:]]
    while words[0] != "]":
        tree.append(parse(words))
    words.pop(0)
    return tree


def value(tree):
    if isinstance(tree, int):
        return tree
    results = [value(child) for child in tree[1:]]
    if tree[0] == "MED":
        return int(np.median(results))
    return {"MIN": min, "MAX": max, "SM": lambda numbers: sum(numbers) % 10}[tree[0]](results)


def nodes(tree, level=1):
    yield tree, level
    for child in tree[1:] if isinstance(tree, list) else ():
        yield from nodes(child, level + 1)


def trees(examples):
    for inputs, target in (examples[i] for i in range(len(examples))):
        words = to_text(inputs).split()
        assert len(words) == len(inputs)
        yield parse(words), int(target), len(inputs)
        assert not words


@pytest.fixture(scope="module")
def small():
    return listops(**SMALL)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]", 5),  # Tay et al., arXiv 2011.04006
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),  # Nangia and Bowman, arXiv 1804.06028
        ("[SM 9 9 3 ]", 1),
        ("[MED 3 8 ]", 5),
        ("[MED 9 1 4 2 ]", 3),
        ("7", 7),
    ],
)
def test_evaluates_known_expressions(expression, result):
    assert evaluate(expression) == result


@pytest.mark.parametrize("expression", ["", "1 2", "[MIN 1 2", "[MIN ]", "]", "1 ]", "[MIN 1 12 ]", "[AVG 1 2 ]"])
def test_refuses_what_is_no_expression(expression):
    with pytest.raises(ValueError, match="expression: "):
        evaluate(expression)


def test_every_label_is_the_value_of_its_expression(small):
    for part in (small.train, small.validation, small.test):
        for tree, target, _ in trees(part):
            assert value(tree) == target
    assert all(evaluate(to_text(inputs)) == target for inputs, target in (small.train[i] for i in range(1500)))


def test_published_sizes():
    data = listops(train=60, validation=20, test=20, seed=3)
    depths = []
    for part in (data.train, data.validation, data.test):
        for tree, target, length in trees(part):
            assert 500 < length < 2000
            assert value(tree) == target
            assert all(isinstance(node, int) or 2 <= len(node) - 1 <= 10 for node, _ in nodes(tree))
            depths.append(max(level for _, level in nodes(tree)))
    assert set(depths) <= set(range(4, 11))
    assert depths.count(10) > 50  # most are as deep as can be
    assert (data.task, data.inputs, data.d_in, data.d_out) == ("classification", "tokens", 16, 10)
    assert data.classes == tuple("0123456789")


def drawn_by_definition(source, level=1):
    """As published: a node above the last level is an operator with probability 0.25."""
    if level < 5 and (level == 1 or source.random() < 0.25):
        return [
            source.choice(["MIN", "MAX", "MED", "SM"]),
            *(drawn_by_definition(source, level + 1) for _ in range(args(source))),
        ]
    return source.randrange(10)


def args(source):
    return source.randint(2, 10)


def features(tree, target, length):
    every = list(nodes(tree))
    operators = [node for node, _ in every if isinstance(node, list)]
    return {
        "length": length,
        "depth": max(level for _, level in every),
        "operators of level 3": sum(level == 3 for node, level in every if isinstance(node, list)),
        "arguments of the root": len(tree) - 1,
        "label": target,
        "extreme label": target in (0, 9),
        **{name: sum(node[0] == name for node in operators) for name in ("MIN", "MAX", "MED", "SM")},
        "sum of digits": sum(node for node, _ in every if isinstance(node, int)) / length,
    }


def test_distribution_is_that_of_the_definition(small):
    source, naive = random.Random(5), []
    while len(naive) < 1500:
        tree = drawn_by_definition(source)
        length = sum(1 if isinstance(node, int) else 2 for node, _ in nodes(tree))
        if 16 <= length <= 128:
            naive.append(features(tree, value(tree), length))
    ours = [features(*example) for example in trees(small.train)]
    for name in ours[0]:
        a, b = ([float(row[name]) for row in rows] for rows in (ours, naive))
        error = ((stdev(a) ** 2 + stdev(b) ** 2) / 1500) ** 0.5
        assert abs(mean(a) - mean(b)) < 4 * error, name


def test_bounds_are_reached_and_kept():
    data = listops(train=3000, validation=1, test=1, min_length=5, max_length=12, max_depth=3, max_args=4)
    every = list(trees(data.train))
    assert {length for *_, length in every} == set(range(5, 13))
    assert {len(node) - 1 for tree, *_ in every for node, _ in nodes(tree) if isinstance(node, list)} == {2, 3, 4}
    assert {max(level for _, level in nodes(tree)) for tree, *_ in every} == {2, 3}
    shares = np.bincount([target for _, target, _ in every], minlength=10) / 3000
    assert shares.min() > 0.04
    assert shares.max() < 0.25


def test_same_arguments_give_the_same_bytes(small):
    again, other = listops(**SMALL), listops(**SMALL, seed=1)
    for name in ("train", "validation", "test"):
        part, same, differs = (getattr(data, name) for data in (small, again, other))
        assert part.values.tobytes() == same.values.tobytes()
        assert part.targets.tobytes() == same.targets.tobytes()
        assert part.values.tobytes() != differs.values.tobytes()
    # A change of the data makes published results incomparable: it must be on purpose.
    assert sha256(small.train.values.tobytes()).hexdigest()[:16] == "0fd63dfe30ea8c79"


def test_test_part_does_not_depend_on_the_other_sizes(small):
    alone = listops(**SMALL | {"train": 10, "validation": 10})
    assert alone.test.values.tobytes() == small.test.values.tobytes()
    shorter = small.validation.offsets[10]
    assert alone.validation.values.tobytes() == small.validation.values[:shorter].tobytes()


ALL_400 = {"min_length": 4, "max_length": 4, "max_depth": 2}  # four operators, two digits


def test_no_expression_comes_twice():
    data = listops(**ALL_400, train=300, validation=60, test=40)
    parts = (data.train, data.validation, data.test)
    assert len({to_text(part[i][0]) for part in parts for i in range(len(part))}) == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**ALL_400, "train": 301, "validation": 60, "test": 40}, "train: 301; only 300 different expressions found"),
        ({"train": 0}, "train: 0; it must be at least 1"),
        ({"min_length": 200, "max_length": 100}, "min_length: 200, above max_length 100"),
        ({"max_depth": 2}, "min_length: 501; with max_depth 2 and max_args 10 it must be at most 12"),
        ({"max_depth": 1}, "max_depth: 1; it must be at least 2"),
        ({"max_args": 1}, "max_args: 1; it must be at least 2"),
        ({"operator_probability": 1.0}, "operator_probability: 1.0; it must be above 0 and below 1"),
        ({"operator_probability": float("nan")}, "operator_probability: nan"),
        ({"seed": -1}, "seed: -1; it must be at least 0"),
    ],
)
def test_refuses_impossible_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        listops(**options)


def test_examples_are_a_sequence_and_make_batches(small):
    inputs, target = small.test[-1]
    assert inputs.equal(small.test[99][0])
    assert inputs.dtype == target.dtype == torch.int64
    assert 1 <= inputs.min() <= inputs.max() <= len(SYMBOLS)
    with pytest.raises(IndexError):
        small.test[100]
    batch = collate([small.test[i] for i in range(8)])
    assert batch.inputs.shape == (8, int(batch.lengths.max()))
    for row, length, i in zip(batch.inputs, batch.lengths, range(8), strict=True):
        assert row[:length].equal(small.test[i][0])
        assert not row[length:].any()
    assert batch.targets.tolist() == small.test.targets[:8].tolist()
