"""Memory tasks: every target follows from the inputs by a solver that knows the definition only."""

import pytest
import torch

from torchstu.data.tasks import IGNORED, TASKS, adding, associative_recall, copying, induction_heads, selective_copying


def draw(task, seed=0, count=200, **options):
    return task(count, generator=torch.Generator().manual_seed(seed), **options)


def labelled(task):
    """Token sequences and the asked (step, label) pairs of each."""
    assert task.inputs.dtype == torch.float32
    assert task.inputs.sum(-1).eq(1).all()
    assert task.inputs.shape[2] == task.d_out
    assert task.loss == "cross_entropy"
    for tokens, targets in zip(task.inputs.argmax(-1).tolist(), task.targets.tolist(), strict=True):
        yield tokens, [(t, y) for t, y in enumerate(targets) if y != IGNORED]


@pytest.mark.parametrize("task", [copying, selective_copying])
def test_copying_asks_for_the_symbols_in_their_order(task):
    places = set()
    for tokens, asked in labelled(draw(task, length=30, items=4, symbols=6)):
        seen = [t for t in range(25) if tokens[t] < 6]
        assert len(seen) == 4
        assert tokens[25] == 7  # the delimiter, once
        assert tokens.count(7) == 1
        assert tokens[26:] == [6] * 4
        assert asked == [(26 + i, tokens[t]) for i, t in enumerate(seen)]
        places.add(tuple(seen))
    assert (places == {(0, 1, 2, 3)}) == (task is copying)
    assert len(places) in ((1,) if task is copying else range(150, 201))


def test_selective_copying_uses_every_place():
    tokens = draw(selective_copying, length=12, items=2, symbols=3).inputs.argmax(-1)[:, :9]
    share = (tokens < 3).double().mean(0)  # 2 of 9 places each
    assert (share - 2 / 9).abs().max() < 0.1


def test_adding_is_the_sum_of_what_is_marked():
    task = draw(adding, length=21)
    assert task.loss == "l2"
    assert task.targets.shape == (200, 21, 1)
    for x, y in zip(task.inputs.tolist(), task.targets[..., 0].tolist(), strict=True):
        marked = [t for t, (_, mark) in enumerate(x) if mark == 1]
        assert len(marked) == 2
        assert marked[0] < 10 <= marked[1]
        assert all(mark == 0 for t, (_, mark) in enumerate(x) if t not in marked)
        assert y[-1] == pytest.approx(sum(x[t][0] for t in marked), abs=1e-6)
        assert y[: marked[0]] == [0.0] * marked[0]
        assert y[marked[0] : marked[1]] == pytest.approx([x[marked[0]][0]] * (marked[1] - marked[0]))
    large = draw(adding, count=20_000, length=10)
    assert float((large.targets[:, -1] - 1).square().mean()) == pytest.approx(1 / 6, rel=0.03)


def test_induction_heads_ask_for_the_first_successor():
    places = set()
    for tokens, asked in labelled(draw(induction_heads, length=9, symbols=5)):
        first = tokens.index(5)
        places.add(first)
        assert tokens.count(5) == 2
        assert tokens[-1] == 5
        assert asked == [(8, tokens[first + 1])]
    assert places == set(range(7))


def test_associative_recall_asks_for_the_value_of_the_key():
    repeated = 0
    for tokens, asked in labelled(draw(associative_recall, length=13, keys=4, values=7)):
        pairs = list(zip(tokens[:-1:2], tokens[1::2], strict=True))
        book = dict(pairs)
        assert len(set(pairs)) == len(book)  # a key has one value
        assert all(key < 4 <= value < 11 for key, value in pairs)
        assert asked == [(12, book[tokens[-1]])]
        repeated += len(pairs) > len(book)
    assert repeated > 100


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_of_their_seed(name):
    first, again, other = (draw(TASKS[name], seed, count=5, length=41) for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)


def test_bad_sizes_are_refused():
    for task, options, text in (
        (copying, {"length": 20}, "length: 20 for 10 items; it must be at least 21"),
        (selective_copying, {"length": 30, "items": 0}, "items: 0"),
        (copying, {"length": 30, "symbols": 0}, "symbols: 0"),
        (adding, {"length": 1}, "length: 1"),
        (induction_heads, {"length": 2}, "length: 2"),
        (induction_heads, {"length": 10, "count": 0}, "count: 0"),
        (associative_recall, {"length": 10}, "length: 10; it must be odd"),
        (associative_recall, {"length": 11, "keys": 0}, "keys: 0"),
    ):
        with pytest.raises(ValueError, match=text):
            draw(task, **options)
    assert draw(copying, length=21).inputs.shape == (200, 21, 10)
