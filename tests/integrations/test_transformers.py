"""STU language models as `transformers` models: generation, padding, packing, saving, training."""

import json
import subprocess
import sys

import pytest
import torch

from torchstu.testing import close

transformers = pytest.importorskip("transformers")

from torchstu.integrations.transformers import (  # noqa: E402
    STUCache,
    STUConfig,
    STUForCausalLM,
    STUForSequenceClassification,
    STUModel,
)

MIXES = {
    "tensordot": {"mixers": "TensordotSTU"},
    "STU": {"mixers": "STU", "mixer_options": {"STU": {"num_heads": 4}}},
    "AR-STU": {"mixers": ["AR-STU"]},
    "hybrid": {"mixers": ["TensordotSTU", "sliding_attention"]},
    "STU and full attention": {"mixers": ["STU", "full_attention"], "num_key_value_heads": 2},
    "attention alone": {"mixers": ["sliding_attention"]},
    "GRU": {"mixers": ["GRU"]},
    "S4D, LRU": {"mixers": ["S4D", "LRU"], "mixer_options": {"LRU": {"state_dim": 8, "r_max": 0.9}}},
}
SMALL = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_filters": 6, "filter_length": 32,
    "num_attention_heads": 4, "sliding_window": 8, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
LENGTHS = (13, 10, 6, 1)
GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.5, "top_k": 20}


def make(kind=STUForCausalLM, seed=3, **options):
    """A small model in float64 whose weights are far from zero: no two tokens are equally likely to rounding."""
    torch.manual_seed(seed)
    model = kind(STUConfig(**SMALL | options)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=MIXES.values(), ids=MIXES)
def mix(request):
    return request.param


def prompts(side="left"):
    """Prompts of unequal lengths as one padded batch, its mask, and one by one."""
    torch.manual_seed(1)
    rows = [torch.randint(2, 50, (1, n)) for n in LENGTHS]
    ids, mask = torch.zeros(4, 13, dtype=torch.long), torch.zeros(4, 13, dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(13 - row.shape[1], None) if side == "left" else slice(0, row.shape[1])
        ids[i, span], mask[i, span] = row[0], 1
    return ids, mask, rows


def generate(model, ids, count=24, **options):
    torch.manual_seed(7)
    return model.generate(ids, min_new_tokens=count, max_new_tokens=count, **options)[:, -count:]


@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_generation_with_a_cache_is_generation_without(mix, how):
    """Token for token, one prompt and four unequal ones, across the window of 8 and the filters' 32 steps."""
    model, (ids, mask, rows) = make(**mix), prompts()
    together = generate(model, ids, attention_mask=mask, **how)
    assert len(together.unique()) > 5  # no one token for ever
    assert torch.equal(together, generate(model, ids, attention_mask=mask, use_cache=False, **how))
    assert torch.equal(generate(model, rows[0], **how), generate(model, rows[0], use_cache=False, **how))
    if how is GREEDY:
        for row, expected in zip(rows, together, strict=True):
            assert torch.equal(generate(model, row, **how)[0], expected)


def test_beams_carry_their_states(mix):
    model, (ids, mask, _) = make(**mix), prompts()
    beams = {"num_beams": 3, "do_sample": False, "attention_mask": mask, "count": 8}
    assert torch.equal(generate(model, ids, **beams), generate(model, ids, use_cache=False, **beams))


def test_a_prompt_may_be_read_in_chunks(mix):
    model, (ids, mask, _) = make(**mix), prompts()
    whole = generate(model, ids, attention_mask=mask, **GREEDY)
    assert torch.equal(whole, generate(model, ids, attention_mask=mask, prefill_chunk_size=5, **GREEDY))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(mix, side):
    """Logits at real steps, and the state that goes on, whatever is written under the padding."""
    model, (ids, mask, rows) = make(**mix), prompts(side)
    ids = torch.where(mask.bool(), ids, 33)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = model(ids, attention_mask=mask, position_ids=positions, use_cache=True)
    after = torch.cat([mask, torch.ones(4, 1, dtype=torch.long)], dim=1)
    following = model(
        torch.full((4, 1), 5), attention_mask=after, position_ids=mask.sum(1, keepdim=True),
        past_key_values=found.past_key_values,
    )  # fmt: skip
    for i, row in enumerate(rows):
        expected = model(torch.cat([row, torch.tensor([[5]])], dim=1)).logits[0]
        close(found.logits[i, mask[i].bool()], expected[:-1], "split float64", f"row {i}")
        if side == "left" or "attention" not in str(model.config.mixers):  # the library's windows keep the padding, too
            close(following.logits[i], expected[-1:], "split float64", f"after row {i}")


@torch.no_grad()
def test_packed_sequences_do_not_see_each_other(mix):
    """As a flattening collator makes them, with nothing said of caches, and with a mask of ones."""
    model, (_, _, rows) = make(**mix), prompts()
    packed = torch.cat(rows, dim=1)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    expected = torch.cat([model(row).logits for row in rows], dim=1)
    for options in ({}, {"attention_mask": torch.ones_like(packed)}, {"use_cache": False}):
        found = model(packed, position_ids=positions, **options)
        close(found.logits, expected, "split float64", f"packed, {list(options)}")
        assert found.past_key_values is None
    with pytest.raises(ValueError, match="position_ids: packed sequences beside past_key_values"):
        model(packed, position_ids=positions, past_key_values=STUCache(model.config))


@torch.no_grad()
def test_padding_changes_nothing_step_by_step(mix):
    """A padded batch token by token, and with masks of the new steps alone."""
    model, (ids, mask, rows) = make(**mix), prompts()
    positions, cache = (mask.cumsum(1) - 1).clamp(min=0), STUCache(model.config)
    for t in range(13):
        step = {"position_ids": positions[:, t : t + 1], "past_key_values": cache}
        logits = model(ids[:, t : t + 1], attention_mask=mask[:, : t + 1], **step).logits
    expected = torch.cat([model(row).logits[:, -1:] for row in rows])
    close(logits, expected, "split float64", "step by step")
    row, cache = rows[0], STUCache(model.config)
    parts = [
        model(part, attention_mask=torch.ones_like(part), past_key_values=cache).logits for part in row.split([6, 7], dim=1)
    ]
    close(torch.cat(parts, dim=1), model(row).logits, "split float64", "masks of the new steps")


@torch.no_grad()
def test_the_cache_does_not_grow(mix):
    model = make(**mix)
    cache, sizes = STUCache(model.config), []
    for _ in range(3):
        model(torch.randint(2, 50, (2, 40)), past_key_values=cache)
        sizes.append(cache.memory_bytes())
    assert cache.get_seq_length() == 120
    assert (sizes[0] == sizes[1] == sizes[2] > 0) == ("full_attention" not in model.config.mixers)
    cache.reset()
    assert cache.get_seq_length() == 0
    ids = torch.randint(2, 50, (2, 9))
    close(model(ids, past_key_values=cache).logits, model(ids).logits, "split float64", "after a reset")


def test_saved_models_are_the_same_in_a_fresh_process(mix, tmp_path):
    """Only the registration is imported; logits bit for bit."""
    model, ids = make(**mix).float(), prompts()[0]
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    code = (
        "import json, sys, torch, torchstu.integrations.transformers\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()\n"
        f"print(json.dumps(model(torch.tensor({ids.tolist()})).logits.tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert torch.equal(torch.tensor(json.loads(done.stdout.splitlines()[-1])), model(ids).logits)


@torch.no_grad()
def test_a_classifier_reads_the_last_token_that_is_no_padding(mix):
    model = make(STUForSequenceClassification, num_labels=3, **mix)
    (left, left_mask, rows), (right, right_mask, _) = prompts("left"), prompts("right")
    expected = torch.cat([model(row).logits for row in rows])
    for ids, mask in ((left, left_mask), (right, right_mask)):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        found = model(ids, attention_mask=mask, position_ids=positions).logits
        close(found, expected, "split float64", "classes")


def test_checkpointed_gradients_are_the_gradients(mix):
    gradients = []
    for checkpointed in (False, True):
        model = make(**mix).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        ids = prompts()[0]
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        close(second, first, "twin float64", "gradient")


BAD_CONFIGS = {
    "unknown mixer": ({"mixers": ["Mamba"]}, "mixers: 'Mamba'; each must be one of"),
    "no mixer": ({"mixers": []}, "mixers: 0 of them; there must be from 1 to num_hidden_layers, 2"),
    "too many": ({"mixers": ["STU"] * 3}, "mixers: 3 of them"),
    "options of another": ({"mixer_options": {"LRU": {}}}, "mixer_options: 'LRU'"),
    "heads": ({"mixers": ["sliding_attention"], "num_attention_heads": 3}, "num_attention_heads: 3; it must divide"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads: 0; it must be an integer of at least 1"),
    "no width": ({"hidden_size": 0}, "hidden_size: 0; it must be an integer of at least 1"),
    "misspelled": ({"hiden_size": 8}, "hiden_size: unknown; did you mean hidden_size?"),
    "dropout": ({"hidden_dropout": 1.0}, "hidden_dropout: 1.0; it must be a number from 0 to below 1"),
    "cap": ({"attn_logit_softcapping": -3.0}, "attn_logit_softcapping: -3.0; it must be a number from 0"),
    "epsilon": ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan; it must be"),
    "odd heads": ({"mixers": ["full_attention"], "head_dim": 5}, "head_dim: 5; rotary positions turn pairs, it must be even"),
    "shared heads": (
        {"mixers": ["full_attention"], "num_attention_heads": 4, "num_key_value_heads": 3},
        "num_key_value_heads: 3; it must divide num_attention_heads, 4",
    ),
    "no shared heads": ({"num_key_value_heads": 0}, "num_key_value_heads: 0; it must be an integer of at least 1"),
    "window": ({"mixers": ["sliding_attention"], "sliding_window": 1}, "sliding_window: 1; it must be at least 2"),
    "act": ({"hidden_act": "foo"}, "hidden_act: 'foo'; it must be one of .*silu"),
    "mixers of a kind": ({"mixers": 3}, "mixers: 3; it must be a name or a list of names"),
    "options of a kind": ({"mixer_options": 3}, "mixer_options: 3; it must be a table"),
    "slopes": ({"alibi_slopes": 3}, "alibi_slopes: 3; it must be a list"),
    "token": ({"bos_token_id": "word"}, "bos_token_id: 'word'; it must be a token"),
    "no number": ({"num_filters": 2.5}, "num_filters: 2.5; it must be"),
}


@pytest.mark.parametrize(("options", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        STUConfig(**SMALL | options)


def test_options_are_the_mixers_to_judge():
    with pytest.raises(ValueError, match="num_heads: 5; it must divide the channels"):
        make(mixers="STU", mixer_options={"STU": {"num_heads": 5}})


def bad_inputs(model):
    ids, other = torch.randint(2, 50, (2, 5)), make(mixers=["AR-STU"])
    foreign = other(ids, use_cache=True).past_key_values
    own = model(ids, use_cache=True).past_key_values
    return {
        "input_ids: from 2 to 50; tokens must be from 0 to 49": lambda: model(torch.tensor([[2, 50]])),
        "input_ids: from -1 to 3": lambda: model(torch.tensor([[-1, 3]])),
        r"input_ids: shape \(2, 0\); it must be \(B, T\)": lambda: model(ids[:, :0]),
        r"input_ids: shape \(5,\)": lambda: model(ids[0]),
        "input_ids, inputs_embeds: exactly one": lambda: model(),
        r"attention_mask: shape \(2, 4\); it must be \(2, 5\)": lambda: model(ids, attention_mask=torch.ones(2, 4)),
        r"past_key_values: of a model whose layer_mixers is \['AR-STU', 'AR-STU'\]": lambda: model(
            ids, past_key_values=foreign
        ),
        "past_key_values: of 2 sequences; the input has 1": lambda: model(ids[:1], past_key_values=own),
        "cache_implementation: 'static'": lambda: generate(model, ids, cache_implementation="static"),
    }


@torch.no_grad()
def test_bad_input_is_refused_by_name():
    model = make(mixers=["TensordotSTU", "STU"])
    for message, call in bad_inputs(model).items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="past_key_values: DynamicCache; it must be an STUCache"):
        model(torch.ones(1, 3, dtype=torch.long), past_key_values=transformers.DynamicCache())
    with pytest.raises(ValueError):  # the library's own words
        model.generate(torch.zeros(1, 0, dtype=torch.long), max_new_tokens=2)


def test_auto_classes_know_the_model():
    config = transformers.AutoConfig.for_model("stu", **SMALL)
    assert isinstance(transformers.AutoModel.from_config(config), STUModel)
    assert isinstance(transformers.AutoModelForCausalLM.from_config(config), STUForCausalLM)
    assert isinstance(transformers.AutoModelForSequenceClassification.from_config(config), STUForSequenceClassification)
    again = STUConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert again.layer_types == ["linear_attention"] * 2


def test_the_head_is_the_embedding_unless_asked():
    model, untied = make(), make(tie_word_embeddings=False)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


@pytest.mark.parametrize("width", range(8, 80, 6))
def test_models_without_attention_are_saved_at_any_width(width, tmp_path):
    for name in ("STU", "S4D"):
        config = STUConfig(vocab_size=11, hidden_size=width, num_hidden_layers=1, mixers=name, num_filters=4, filter_length=16)
        STUForCausalLM(config).save_pretrained(tmp_path / name)
        assert STUForCausalLM.from_pretrained(tmp_path / name).config.hidden_size == width


def test_packed_rows_are_not_padded_rows():
    model = STUForCausalLM(STUConfig(**SMALL)).eval()
    ids = torch.zeros(1, 13, dtype=torch.long)
    positions = torch.tensor([[*range(6), *range(5), 0, 0]])
    mask = torch.tensor([[1] * 11 + [0] * 2])
    with pytest.raises(ValueError, match="position_ids: packed sequences beside padding in attention_mask"):
        model(ids, position_ids=positions, attention_mask=mask)
    with pytest.raises(ValueError, match="cu_seq_lens_q: without position_ids"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 6, 13]), cu_seq_lens_k=torch.tensor([0, 6, 13]))
    padded = torch.tensor([[1, 1, 1, *range(10)]])  # positions of padding on the left are no restarts
    model(ids, position_ids=padded, attention_mask=torch.tensor([[0] * 3 + [1] * 10]))


def test_a_state_is_not_carried_through_checkpointed_layers():
    model = STUForCausalLM(STUConfig(**SMALL)).train()
    cache = STUCache(model.config)
    ids = torch.zeros(1, 5, dtype=torch.long)
    model(ids, past_key_values=cache)
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="past_key_values: with gradient checkpointing"):
        model(ids, past_key_values=cache)
    model.eval()(ids, past_key_values=cache)
    assert cache.get_seq_length() == 10


@pytest.mark.parametrize("mixers", [["TensordotSTU"], ["STU", "AR-STU"], ["TensordotSTU", "sliding_attention"]])
def test_compiled_steps_know_padding(mixers):
    torch.manual_seed(0)
    model = STUForCausalLM(STUConfig(**SMALL | {"mixers": mixers})).eval()
    ids = torch.randint(0, model.config.vocab_size, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        cache, step = STUCache(model.config), torch.compile(model, backend="eager")
        for t in range(12):
            call = model if t < 3 else step
            found = call(ids[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=cache).logits[:, 0]
            real = mask[:, t].bool()
            assert (found[real] - expected[:, t][real]).abs().max() < 1e-5


def test_a_long_prompt_leaves_no_more_than_its_window():
    model = STUForCausalLM(STUConfig(**SMALL | {"mixers": ["STU", "sliding_attention"]})).eval()
    caches = [STUCache(model.config) for _ in range(2)]
    with torch.no_grad():
        model(torch.zeros(1, 60, dtype=torch.long), past_key_values=caches[0])
        model(torch.zeros(1, 600, dtype=torch.long), past_key_values=caches[1])
    assert caches[0].memory_bytes() == caches[1].memory_bytes()
