"""Deep models over every registered mixer: padding, order, modes, storage; and every kind of block under the contract."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torchstu import SpectralSSM
from torchstu.layers.registry import MIXERS
from torchstu.models.blocks import SequenceBatchNorm, reverse
from torchstu.models.config import BackboneConfig
from torchstu.models.pairs import PairClassifier
from torchstu.models.store import load_model, save_model
from torchstu.testing import check_mixer, close

OPTIONS = {"num_filters": 6}
SMALL = {
    "STU": OPTIONS, "AR-STU": OPTIONS, "TensordotSTU": OPTIONS, "LRU": {"state_dim": 6}, "S4": {"state_dim": 6},
    "S4D": {"state_dim": 6}, "DSS": {"state_dim": 6}, "S5": {"state_dim": 6}, "Attention": {"num_heads": 2, "window": 12},
}  # fmt: skip
KINDS = {
    "glu": {},
    "glu, post, rms": {"norm": "rms", "norm_position": "post", "pooling": "mean"},
    "glu, batch": {"norm": "batch", "pooling": "attention"},
    "glu, no norm": {"norm": None},
    "swiglu": {"activation": "swiglu", "norm": "rms"},
    "swiglu, post": {"activation": "swiglu", "norm_position": "post"},
    "swiglu, batch": {"activation": "swiglu", "norm": "batch", "pooling": "mean"},
}


def shaken(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make(mixer="STU", *, inputs="tokens", d_in=11, d_out=3, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"d_model": 8, "num_layers": 2, "length": 24, "mixer": mixer, "dtype": torch.float64, "inputs": inputs}
    named = {"mixer_options": SMALL.get(mixer, {}) if isinstance(mixer, str) else {n: SMALL.get(n, {}) for n in mixer}}
    return shaken(SpectralSSM(d_in, d_out, **sizes | named | options)).eval()


def ragged(generator, kind="tokens", batch=5, most=30):
    lengths = torch.randint(1, most + 1, (batch,), generator=generator)
    lengths[0] = most
    if kind == "tokens":
        u = torch.randint(11, (batch, most), generator=generator)
    elif kind == "pixels":
        u = torch.randint(256, (batch, most, 2), generator=generator, dtype=torch.uint8)
    else:
        u = torch.randn(batch, most, 2, generator=generator, dtype=torch.float64)
    return u, lengths


def check_padding(model, u, lengths):
    """What is behind the end of a sequence changes nothing, whatever it is."""
    whole, pooled = model(u, lengths=lengths)[0], model.at_end(u, lengths)
    for row, n in enumerate(lengths.tolist()):
        alone = u[row : row + 1, :n]
        own = model(alone)[0]
        close(whole[row : row + 1, :n], own, "split float64", "padded = unpadded")
        close(pooled[row : row + 1], own[:, -1], "split float64", "at_end = forward at the end")
        close(model.at_end(alone), own[:, -1], "split float64", "at_end without lengths")
        assert torch.equal(whole[row, n:], torch.zeros_like(whole[row, n:]))
    with_other_padding = u.flip(1).clone()
    for row, n in enumerate(lengths.tolist()):
        with_other_padding[row, :n] = u[row, :n]
    close(model.at_end(with_other_padding, lengths), pooled, "split float64", "the padding's values")


@st.composite
def drawn(draw):
    """A kind of model, and a ragged batch for it."""
    kind, inputs = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(["tokens", "pixels", "reals"]))
    options = KINDS[kind] | {"inputs": inputs, "d_in": 11 if inputs == "tokens" else 2, "bidirectional": draw(st.booleans())}
    options["pooling"] = "last" if options["bidirectional"] else draw(st.sampled_from(["last", "mean", "attention"]))
    lengths = draw(st.lists(st.integers(1, 40), min_size=2, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    u, _ = ragged(generator, inputs, len(lengths), max(lengths))
    return options, u, torch.tensor(lengths)


few = settings(max_examples=5, deadline=None, derandomize=True)


@pytest.mark.parametrize("mixer", MIXERS)
@given(drawn())
@few
def test_padded_batches_give_the_unpadded_results(mixer, case):
    options, u, lengths = case
    check_padding(make(mixer, **options), u, lengths)


@pytest.mark.parametrize("mixer", MIXERS)
@given(drawn(), st.randoms(use_true_random=False))
@few
def test_batch_order_is_irrelevant(mixer, case, random):
    options, u, lengths = case
    order = list(range(len(u)))
    random.shuffle(order)
    model = make(mixer, **options)
    close(model.at_end(u[order], lengths[order]), model.at_end(u, lengths)[order], "split float64", "order of the batch")


@pytest.mark.parametrize("mixer", MIXERS)
@given(drawn())
@few
def test_train_and_eval_differ_by_dropout_only(mixer, case):
    options, u, lengths = case
    assume(options.get("norm") != "batch")  # which has statistics of its own in training
    model = make(mixer, dropout=0.4, **options)
    expected = model.at_end(u, lengths)
    dropped = model.train().at_end(u, lengths)
    assert float((dropped - expected).detach().abs().max()) > 1e-3 * float(expected.detach().abs().max())
    assert torch.equal(model.eval().at_end(u, lengths), expected)
    assert torch.equal(make(mixer, **options).train().at_end(u, lengths), expected)


@pytest.mark.parametrize("mixer", [*MIXERS, ("STU", "Attention")])
@given(drawn())
@few
def test_models_go_through_folders(mixer, case):
    options, u, lengths = case
    model = make(mixer, **options)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", model)
        loaded, _ = load_model(Path(folder) / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded.eval().at_end(u, lengths), model.at_end(u, lengths))


@pytest.mark.parametrize("kind", ["glu, batch", "swiglu, batch"])
def test_padding_leaves_batch_statistics_alone(kind):
    u, lengths = ragged(torch.Generator().manual_seed(3))
    results = []
    for garbage in (0, 7):
        model = make("STU", **KINDS[kind]).train()
        padded = torch.where(torch.arange(30) < lengths[:, None], u, garbage)
        results.append((model.at_end(padded, lengths), model.backbone.blocks[1].norm.running_var))
    close(results[1][0], results[0][0], "split float64", "outputs in training")
    close(results[1][1], results[0][1], "split float64", "running variance")


def test_batch_norm_is_torchs_on_full_batches():
    x = torch.randn(4, 9, 5, dtype=torch.float64)
    ours, theirs = SequenceBatchNorm(5, dtype=torch.float64), torch.nn.BatchNorm1d(5, dtype=torch.float64)
    for mode in (True, True, False):
        close(ours.train(mode)(x), theirs.train(mode)(x.mT).mT, "twin float64", f"training={mode}")
    with pytest.raises(ValueError, match="u: 1 step in a batch"):
        ours.train()(x[:1, :1])


def test_pairs():
    torch.manual_seed(0)
    config = {"d_model": 8, "num_layers": 1, "length": 24, "mixer": "S4D", "inputs": "tokens", "pooling": "mean"}
    model = shaken(PairClassifier(11, 2, **config, dtype=torch.float64))
    generator = torch.Generator().manual_seed(7)
    (u, n), (v, m) = ragged(generator), ragged(generator, most=21)
    logits = model((u, v), (n, m))
    assert logits.shape == (5, 2)
    for row in range(5):
        alone = model((u[row : row + 1, : n[row]], v[row : row + 1, : m[row]]))
        close(alone, logits[row : row + 1], "split float64", "pair alone")
    with pytest.raises(ValueError, match="pair: 5 and 4 sequences"):
        model((u, v[:4]))


def test_pairs_go_through_folders(tmp_path):
    options = {"d_model": 8, "num_layers": 1, "length": 24, "mixer_options": {"num_filters": 4}, "inputs": "tokens"}
    model = PairClassifier(11, 2, **options, pooling="mean")
    save_model(tmp_path / "model", model)
    loaded, _ = load_model(tmp_path / "model")
    u = torch.randint(11, (2, 9))
    assert torch.equal(loaded((u, u)), model((u, u)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_keeps_the_contract(kind):
    def model(dtype):
        return SpectralSSM(2, 3, d_model=4, num_layers=2, length=32, mixer=("STU", "GRU"), dtype=dtype,
                           mixer_options={"STU": {"num_filters": 6, "autoregression": None}}, **KINDS[kind])  # fmt: skip

    check_mixer(model, linear=False)


def test_pooling_is_not_linear_in_the_state():
    options = {"d_model": 4, "num_layers": 2, "length": 32, "mixer": "LRU", "activation": None, "norm": None}
    assert SpectralSSM(2, 3, **options).is_linear
    assert not SpectralSSM(2, 3, **options, pooling="mean").is_linear
    assert not SpectralSSM(2, 3, **options, inputs="tokens").is_linear


@pytest.mark.parametrize("inputs", ["tokens", "pixels"])
@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
def test_tokens_and_pixels_are_streamed(inputs, pooling):
    u, _ = ragged(torch.Generator().manual_seed(8), inputs)
    model = make(("TensordotSTU", "Attention"), inputs=inputs, d_in=11 if inputs == "tokens" else 2, pooling=pooling)
    whole, state = model(u)
    cut, before = model(u[:, :13])
    rest, _ = model(u[:, 13:], before)
    close(torch.cat([cut, rest], dim=1), whole, "split float64", "cut")
    outputs, after = [], None
    for t in range(u.shape[1]):
        y, after = model.step(u[:, t], after)
        outputs.append(y)
    close(torch.stack(outputs, dim=1), whole, "split float64", "steps")
    silent = torch.zeros_like(u[:, :4])
    close(model.free_response(state, 4)[0], model(silent, state)[0], "split float64", "free response")
    reset = torch.zeros(5, 30, dtype=torch.bool)
    reset[2, 11] = True
    close(model(u, reset=reset)[0][2:3, 11:], model(u[2:3, 11:])[0], "split float64", "reset")


def test_mean_pooling_stays_exact_over_a_long_stream():
    model = make("LRU", inputs="reals", d_in=2, pooling="mean", dtype=torch.float32)
    x = torch.randn(1, 200_000, 8) + 100
    pooled, _ = model.pooling(x, model.pooling.initial_state(1, x))
    close(pooled[:, -1].double(), x.double().mean(1), "low precision float32", "mean of a long stream")


def test_attention_pooling_of_early_steps_does_not_see_later_scores():
    model = make("LRU", pooling="attention")
    x = torch.zeros(1, 40, 8, dtype=torch.float64)
    x[0, :, 0] = torch.arange(40) * 100.0  # scores that grow by more than the exponent of a number holds
    with torch.no_grad():
        model.pooling.query.fill_(8.0)
    pooled, _ = model.pooling(x, model.pooling.initial_state(1, x))
    for steps in (1, 5, 40):
        close(pooled[:, steps - 1], model.pooling.at_end(x[:, :steps], None), "split float64", f"{steps} steps")


@pytest.mark.parametrize("value", [float("nan"), 1e30])
@pytest.mark.parametrize("mixer", ["S4D", "STU", "Attention"])
def test_padding_may_hold_anything(mixer, value):
    u, lengths = ragged(torch.Generator().manual_seed(10), "reals")
    filled = torch.where(torch.arange(30)[:, None] < lengths[:, None, None], u, value)
    for bidirectional in (False, True):
        model = make(mixer, inputs="reals", d_in=2, norm="batch", bidirectional=bidirectional).train()
        expected = model.at_end(u, lengths)
        model = make(mixer, inputs="reals", d_in=2, norm="batch", bidirectional=bidirectional).train()
        close(model.at_end(filled, lengths), expected, "split float64", "padding")


def test_batch_norm_counts_in_half_precision():
    x = torch.randn(66, 1003, 2)
    norm = SequenceBatchNorm(2)
    close(norm(x.half()).float(), SequenceBatchNorm(2)(x), "low precision float16", "float16")
    assert norm(x.half()).dtype == torch.float16


def test_reverse_turns_each_sequence_within_its_length():
    x = torch.arange(10.0).view(2, 5, 1)
    assert reverse(x, torch.tensor([3, 5]))[..., 0].tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]
    assert torch.equal(reverse(reverse(x, torch.tensor([3, 5])), torch.tensor([3, 5])), x)


def test_bidirectional_model_sees_the_future_and_has_no_state():
    model = make("STU", bidirectional=True)
    u = torch.randint(11, (2, 20), generator=torch.Generator().manual_seed(9))
    changed = u.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 11
    assert float((model(changed)[0] - model(u)[0])[:, 0].detach().abs().max()) > 1e-6
    assert model(u)[1] is None
    for call in (lambda: model.step(u[:, 0]), lambda: model.initial_state(2), lambda: model(u, reset=u > 5)):
        with pytest.raises(ValueError, match="bidirectional: True"):
            call()


def test_batch_norm_has_a_step_in_evaluation_only():
    model = make("STU", norm="batch")
    u = torch.randint(11, (2, 5))
    model.step(u[:, 0])
    with pytest.raises(ValueError, match="norm: 'batch' in training"):
        model.train().step(u[:, 0])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"mixer": "S6"}, ValueError, "mixer: 'S6'; it must be one of 'STU'"),
        ({"mixer": ()}, ValueError, "mixer: an empty list"),
        ({"mixer": ("STU", "LRU"), "mixer_options": {"S4": {}}}, ValueError, "mixer_options: 'S4'"),
        ({"mixer_options": 3}, TypeError, "mixer_options: int"),
        ({"norm": "group"}, ValueError, "norm: 'group'; it must be one of 'layer', 'rms', 'batch', None"),
        ({"norm": None, "norm_position": "post"}, ValueError, "norm_position: 'post' without norm"),
        ({"activation": "relu"}, ValueError, "activation: 'relu'; it must be one of 'glu', 'swiglu', None"),
        ({"activation": None}, ValueError, "norm: 'layer'; it must be None without activation"),
        ({"activation": None, "norm": None, "dropout": 0.1}, ValueError, "dropout: 0.1; it must be 0 without"),
        ({"dropout": "much"}, TypeError, "dropout: 'much'; it must be a number"),
        ({"dropout": 1.0}, ValueError, "dropout: 1.0; it must be in"),
        ({"d_model": 0}, ValueError, "d_model: 0"),
        ({"length": 2.5}, TypeError, "length: 2.5"),
        ({"bidirectional": "no"}, TypeError, "bidirectional: 'no'"),
    ],
)
def test_bad_configurations_are_refused(change, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(")):
        BackboneConfig(**{"d_model": 8, "num_layers": 1, "length": 16} | change)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, u: m(u.float()), TypeError, "u: torch.float32; it must be a tensor of integers: the inputs are tokens"),
        (lambda m, u: m(u + 11), ValueError, "tokens must be 0..10"),
        (lambda m, u: m(u[0]), ValueError, r"u: shape \(6,\); it must be \(B, L\)"),
        (lambda m, u: m.step(u), ValueError, r"u_t: shape \(2, 6\); it must be \(B,\)"),
        (lambda m, u: m(u, lengths=torch.tensor([6.0, 2.0])), TypeError, "lengths: torch.float32"),
        (lambda m, u: m(u, lengths=torch.tensor([6])), ValueError, r"lengths: shape \(1,\)"),
        (lambda m, u: m.at_end(u, torch.tensor([7, 1])), ValueError, r"lengths: 1..7; they must be in 1..6"),
        (lambda m, u: m(u, m.initial_state(2), lengths=torch.tensor([6, 1])), ValueError, "lengths: given"),
    ],
)
def test_bad_input_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call(make("STU"), torch.arange(12).view(2, 6) % 11)
