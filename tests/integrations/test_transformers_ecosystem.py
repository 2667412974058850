"""What is around transformers takes STU models as others: Trainer, accelerate, PEFT, pipelines, compilers, exporters."""

import json

import pytest
import torch
from torch.utils.data import Dataset

from torchstu.testing import close

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from torchstu.integrations.transformers import STUConfig, STUForCausalLM, STUForSequenceClassification  # noqa: E402

MIXES = {
    "tensordot": "TensordotSTU",
    "STU": ["STU", "AR-STU"],
    "hybrid": ["TensordotSTU", "sliding_attention"],
}


@pytest.fixture(params=MIXES.values(), ids=MIXES)
def mixers(request):
    return request.param


def make(mixers="TensordotSTU", kind=STUForCausalLM, **options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 2, "num_filters": 6, "filter_length": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return kind(STUConfig(mixers=mixers, num_attention_heads=2, sliding_window=8, **sizes | tokens | options))


class Counting(Dataset):
    """Bytes that count upwards from 1 to 12, from anywhere."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        ids = (torch.arange(12) + 7 * index) % 12 + 1
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


class StopAfter(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def trainer(model, folder, **options):
    arguments = transformers.TrainingArguments(
        output_dir=folder, max_steps=6, per_device_train_batch_size=4, learning_rate=3e-2, use_cpu=True, report_to=[],
        disable_tqdm=True, logging_steps=1, seed=3, save_strategy="steps", save_steps=3, **options,
    )  # fmt: skip
    return transformers.Trainer(model=model, args=arguments, train_dataset=Counting(), eval_dataset=Counting())


def test_the_trainer_trains_and_resumes_exactly(mixers, tmp_path):
    """Six steps, and three that go on from a checkpoint: the same weights bit for bit, dropout and all."""
    whole = trainer(make(mixers, hidden_dropout=0.1), tmp_path / "whole")
    whole.train()
    losses = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert abs(whole.evaluate()["eval_loss"] - losses[-1]) < 1
    first = trainer(make(mixers, hidden_dropout=0.1), tmp_path / "cut")
    first.add_callback(StopAfter(3))
    first.train()
    assert first.state.global_step == 3
    second = trainer(make(mixers, hidden_dropout=0.1), tmp_path / "cut")
    second.train(resume_from_checkpoint=True)
    resumed = second.model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.model.state_dict().items())


def test_saved_by_the_trainer_with_a_card(tmp_path):
    """The card that Trainer writes names library, task and loss; the saved model is the model."""
    made = trainer(make(), tmp_path)
    made.train()
    made.save_model(tmp_path / "model")
    made.create_model_card(tags=["spectral-state-space"], tasks="text-generation", model_name="counting", dataset="bytes")
    head = (tmp_path / "README.md").read_text().split("---")[1]
    for entry in ("library_name: transformers", "- spectral-state-space", "name: counting"):
        assert entry in head
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(1, 13)[None]
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, made.model.eval()(ids).logits)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["STUForCausalLM"]


def test_accelerate_prepares_it(mixers):
    """A prepared model takes the steps that it takes without."""
    weights = []
    for prepared in (False, True):
        model = make(mixers)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        loader = torch.utils.data.DataLoader(Counting(), batch_size=8)
        backward = torch.Tensor.backward
        if prepared:
            accelerator = accelerate.Accelerator(cpu=True)
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
            backward = accelerator.backward
        for batch in loader:
            backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning:accelerate")
def test_weights_may_stay_on_the_cpu_or_a_disk(mixers, tmp_path):
    """Hooks that bring weights before a call and take them away after it: prompt, padding, steps."""
    model = make(mixers).eval()
    ids, mask = torch.randint(1, 256, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    how = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(ids, **how)
    model.save_pretrained(tmp_path)
    assert torch.equal(accelerate.cpu_offload(model, execution_device="cpu").generate(ids, **how), expected)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu", "model.norm": "cpu"}
    places |= {"lm_head": "cpu", "model.rotary_emb": "cpu"}
    loaded = STUForCausalLM.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offloaded").eval()
    assert next(loaded.model.layers[0].parameters()).is_meta
    assert torch.equal(loaded.generate(ids, **how), expected)


ADAPTERS = {
    "all linear": {"target_modules": "all-linear"},
    "MLPs and STU weights": {"target_modules": ["up_proj", "down_proj"], "target_parameters": ["mixer.M_inputs", "mixer.M_u"]},
    "whole mixers": {"target_modules": ["gate_proj"], "modules_to_save": ["mixer"]},
}


@pytest.mark.parametrize("targets", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters(mixers, targets, tmp_path):
    """Only they change; merged, and saved and loaded, they give the same; they act in steps as in whole sequences."""
    model = peft.get_peft_model(make(mixers), peft.LoraConfig(task_type="CAUSAL_LM", r=2, **targets))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    batch = {name: x[None] for name, x in Counting()[0].items()}
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed
    assert all("lora_" in name or "modules_to_save" in name for name in changed)
    assert any("mixer" in name for name in changed) == ("all-linear" not in targets.values())
    model.eval().save_pretrained(tmp_path)
    ids, mask = torch.randint(1, 256, (2, 9)), torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
    how = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        expected, tokens = model(ids, attention_mask=mask).logits, model.generate(input_ids=ids, **how)
        assert torch.equal(tokens, model.generate(input_ids=ids, use_cache=False, **how))
        again = peft.PeftModel.from_pretrained(make(mixers), tmp_path).eval()
        close(again(ids, attention_mask=mask).logits, expected, "split float32", "loaded")
        merged = model.merge_and_unload()
        assert type(merged) is STUForCausalLM
        close(merged(ids, attention_mask=mask).logits, expected, "split float32", "merged")


def byte_tokenizer():
    """A token a byte, no merges, nothing downloaded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index + 1 for index, letter in enumerate(alphabet)} | {"<pad>": 0}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left")


def test_pipelines(tmp_path):
    """Text in, text out, one prompt and a padded batch of them; a model and its tokenizer in one folder."""
    model, tokenizer = make(vocab_size=257).eval(), byte_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    how = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    alone = [write(text, **how)[0]["generated_text"] for text in ("Hello", "Hello, Wörld")]
    together = [rows[0]["generated_text"] for rows in write(["Hello", "Hello, Wörld"], batch_size=2, **how)]
    assert together == alone
    ids = tokenizer("Hello", return_tensors="pt").input_ids
    assert alone[0] == tokenizer.decode(model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :])
    judge = make(vocab_size=257, kind=STUForSequenceClassification, num_labels=3).eval()
    found = transformers.pipeline("text-classification", model=judge, tokenizer=tokenizer)(["a", "longer"], batch_size=2)
    assert {row["label"] for row in found} <= {"LABEL_0", "LABEL_1", "LABEL_2"}


@torch.no_grad()
def compiled_steps(mixers, backend):
    """One graph for all steps after the first two."""
    model, ids = make(mixers).eval(), torch.randint(1, 256, (2, 40))
    expected = model(ids).logits[:, 20:]
    cache = model(ids[:, :20], use_cache=True).past_key_values
    torch._dynamo.reset()
    step = torch.compile(model, fullgraph=True, backend=backend)
    found = []
    for t in range(20, 40):
        with torch._dynamo.config.patch(error_on_recompile=t >= 24):
            found.append(step(ids[:, t : t + 1], past_key_values=cache).logits)
    close(torch.cat(found, dim=1), expected, "split float32", "compiled")


def test_steps_are_one_graph(mixers):
    compiled_steps(mixers, "aot_eager")


@pytest.mark.long
def test_compiled_steps_are_the_steps(mixers):
    compiled_steps(mixers, "inductor")


@torch.no_grad()
def test_exported_with_a_padding_mask(mixers):
    """One program for any mask."""
    model, ids = make(mixers).eval(), torch.randint(1, 256, (2, 9))
    mask = torch.ones_like(ids)
    program = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask, "use_cache": False}, strict=False)
    for padding in (0, 3):
        mask[0, :padding] = 0
        expected = model(ids, attention_mask=mask, use_cache=False).logits
        found = program.module()(input_ids=ids, attention_mask=mask, use_cache=False).logits
        close(found[mask.bool()], expected[mask.bool()], "split float32", f"{padding} of padding")


def test_masks_of_pairs_are_refused():
    with pytest.raises(ValueError, match="a state knows no masks of pairs"):
        make()(torch.ones(1, 4, dtype=torch.long), attention_mask=torch.ones(1, 1, 4, 4))
