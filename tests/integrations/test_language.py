"""Language models from text: tokens on disk, training that resumes, bits per byte, text in constant memory."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from torchstu.cli.main import main
from torchstu.integrations.transformers import STUConfig, STUForCausalLM
from torchstu.integrations.transformers.evaluation import bits_by_position, bits_per_byte, generate_text
from torchstu.integrations.transformers.language import LanguageRun, train_language_model
from torchstu.integrations.transformers.text import (
    PARTS,
    TokenFile,
    Windows,
    byte_tokenizer,
    language_files,
    load_tokenizer,
    next_token_loss,
    scripture,
    write_tokens,
)

MODEL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mixers": ["STU", "sliding_attention"],
    "num_filters": 4, "sliding_window": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes("".join(f"line {i} says {i * i} – ünïcode\n" for i in range(1500)).encode())
    return path


def run_of(text, **options):
    return LanguageRun((str(text),), model=MODEL, **{"context": 16, "batch_size": 4, "steps": 6, "validate_every": 2} | options)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "run"
    results = train_language_model(run_of(text), folder, say=lambda line: None)
    return folder, results


def test_bytes_are_tokens_and_come_back():
    tokenizer, raw = byte_tokenizer(), bytes(range(256)).decode("latin-1")
    ids = tokenizer.encode(raw, add_special_tokens=False)
    assert len(ids) == len(raw.encode()) == 384
    assert tokenizer.decode(ids) == raw
    assert len(tokenizer) == 257
    assert tokenizer.eos_token_id == 256


def test_every_byte_is_in_one_part(text, tmp_path):
    tokens = write_tokens([str(text)], byte_tokenizer(), tmp_path)
    assert sum(tokens.bytes[part] for part in PARTS) == tokens.bytes["all"] == text.stat().st_size
    assert tokens.tokens == tokens.bytes  # a token a byte
    assert np.array_equal(tokens.part("all"), np.concatenate([tokens.part(part) for part in PARTS]))
    assert 0.04 < tokens.bytes["test"] / text.stat().st_size < 0.06
    whole = byte_tokenizer().decode(np.concatenate([tokens.part(part) for part in PARTS]).tolist())
    assert whole == text.read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens.bin"]


def test_pieces_of_any_size_give_the_same_tokens(text, tmp_path, monkeypatch):
    expected = write_tokens([str(text), str(text)], byte_tokenizer(), tmp_path / "a")
    monkeypatch.setattr("torchstu.integrations.transformers.text.PIECE", 7)
    found = write_tokens([str(text), str(text)], byte_tokenizer(), tmp_path / "b")
    for part in PARTS:
        assert np.array_equal(found.part(part), expected.part(part))


@pytest.mark.parametrize("line", ["x" + "é" * 4000, "a€𝄞" * 999 + "\n" + "b" * 3000, "\n" * 500])
def test_long_lines_lose_no_byte_and_cut_no_character(line, tmp_path, monkeypatch):
    monkeypatch.setattr("torchstu.integrations.transformers.text.PIECE", 100)
    monkeypatch.setattr("torchstu.integrations.transformers.text.LONGEST_LINE", 50)
    (tmp_path / "a.txt").write_bytes(line.encode())
    tokens = write_tokens([str(tmp_path / "a.txt")], byte_tokenizer(), tmp_path / "out")
    assert tokens.tokens == tokens.bytes
    assert byte_tokenizer().decode(np.concatenate([tokens.part(part) for part in PARTS]).tolist()) == line


def test_texts_that_are_none_are_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes("déjà vu\n".encode("latin-1") * 100)
    with pytest.raises(ValueError, match=r"latin.txt: .* near b'.*'; it must be UTF-8"):
        write_tokens([str(tmp_path / "latin.txt")], byte_tokenizer(), tmp_path / "out")


def test_special_words_in_a_text_are_text(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff" + "an end <|endoftext|> of it\n" * 99, encoding="utf-8")
    tokens = write_tokens([str(tmp_path / "a.txt")], byte_tokenizer(), tmp_path / "out")
    assert tokens.tokens == tokens.bytes
    assert tokens.bytes["all"] == 99 * 27  # the byte order mark is none of it
    assert tokens.part("train").max() < 256


def test_every_token_but_the_first_is_predicted_once():
    windows = Windows(np.arange(50), 8)
    assert len(windows) == 6
    assert torch.equal(torch.cat([windows[i]["labels"] for i in range(6)]), torch.arange(1, 49))
    with pytest.raises(ValueError, match="context: 50; there are 50 tokens, it must be from 1 to 49"):
        Windows(np.arange(50), 50)


def test_the_text_that_ships_is_text():
    text = scripture().decode("ascii")
    assert text.startswith("In the beginning God created the heaven and the earth.\n")
    assert len(text) == 2_094_637


def test_a_model_that_knows_nothing_needs_eight_bits(text, tmp_path):
    tokens = write_tokens([str(text)], byte_tokenizer(), tmp_path)
    model = STUForCausalLM(STUConfig(**MODEL, vocab_size=257, filter_length=16, initializer_range=1e-6))
    assert abs(bits_per_byte(model, tokens, "test", 16) - math.log2(257)) < 1e-4
    by_position = bits_by_position(model, tokens, "test", 64)
    assert by_position.shape == (64,)
    assert abs(by_position - math.log2(257)).max() < 1e-4


def test_bits_are_counted_in_parts_of_any_size(text, tmp_path, monkeypatch):
    tokens = write_tokens([str(text)], byte_tokenizer(), tmp_path)
    torch.manual_seed(0)
    model = STUForCausalLM(STUConfig(**MODEL, vocab_size=257, filter_length=16, initializer_range=0.5))
    ids = torch.from_numpy(tokens.part("validation").astype(np.int64))
    rows = [model.eval()(piece[None, :-1], use_cache=False).logits[0].detach().log_softmax(-1).gather(1, piece[1:, None])
            for piece in (ids[start : start + 17] for start in range(0, len(ids) - 1, 16))]  # fmt: skip
    table = np.full((len(rows), 16), np.nan)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row[:, 0]
    expected = -np.nanmean(table, axis=0) / math.log(2)  # a token is a byte
    assert expected.std() > 0.1
    for logits in (1, 3 * 16 * 257, 2**22):
        monkeypatch.setattr("torchstu.integrations.transformers.evaluation.LOGITS", logits)
        assert abs(bits_by_position(model, tokens, "validation", 16) - expected).max() < 1e-4
    everything = bits_per_byte(model, tokens, "all", 16)
    shares = {part: tokens.tokens[part] for part in PARTS}
    mean = sum(bits_per_byte(model, tokens, part, 16) * count for part, count in shares.items()) / sum(shares.values())
    assert abs(everything - mean) < 1e-2 * mean


def test_bits_count_bytes_where_tokens_are_longer(text, tmp_path, trained):
    """Merged tokens: fewer of them, so more bits each, and the same bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([str(text)], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    results = train_language_model(
        run_of(text, tokenizer=str(tmp_path / "tokenizer.json"), steps=2), tmp_path / "run", say=lambda line: None
    )
    tokens = write_tokens([str(text)], load_tokenizer(str(tmp_path / "tokenizer.json")), tmp_path / "tokens")
    assert tokens.tokens["test"] < 0.7 * tokens.bytes["test"]
    assert 0 < results["bits_per_byte"]["test"] < 8.3 * tokens.tokens["test"] / tokens.bytes["test"] + 0.1


def test_training_learns_and_writes_what_the_library_loads(trained):
    folder, results = trained
    assert results["bits_per_byte"]["test"] < 7.9
    assert json.loads((folder / "results.json").read_text()) == results
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder / "model"), AutoTokenizer.from_pretrained(folder / "model")
    words = []
    found = generate_text(model.eval(), tokenizer, "line", 20, write=words.append)
    assert "".join(words) == found
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert found == generate_text(model, tokenizer, "line", 20)
    assert torch.equal(torch.rand(1), drawn), "the generator of others was touched"
    assert found != generate_text(model, tokenizer, "line", 20, seed=1)
    greedy = generate_text(model, tokenizer, "line", 20, temperature=0)
    assert greedy == generate_text(model, tokenizer, "line", 20, temperature=0, seed=1)


def test_what_is_trained_is_what_is_measured(tmp_path):
    """Every byte tells the next and not the one after: a loss of another shift is at least a bit above."""
    drawn = np.random.default_rng(0).integers(0, 2, 3000)
    path = tmp_path / "text.txt"
    path.write_bytes(b"".join(b"ab" if one else b"cd" for one in drawn))
    said: list[str] = []
    run = run_of(path, steps=150, validate_every=150, learning_rate=1e-2)
    results = train_language_model(run, tmp_path / "run", say=said.append)
    on_the_way = float(next(line for line in said if line.startswith("step 150")).split()[4])
    assert results["bits_per_byte"]["validation"] == pytest.approx(on_the_way, abs=2e-3)
    assert results["bits_per_byte"]["validation"] < 0.6  # half a bit: the second of a pair is known


class Plain(PreTrainedModel):
    """Another model, whose forward pass names no labels."""

    config_class = STUConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, input_ids, **_):
        return CausalLMOutputWithPast(logits=self.table(input_ids))


def test_any_model_learns_the_next_token(text, tmp_path):
    """A table of pairs goes to the entropy of a byte after the one before."""
    said: list[str] = []
    run = run_of(text, steps=300, validate_every=300, learning_rate=0.3, weight_decay=0.0)
    results = train_language_model(run, tmp_path / "run", make_model=Plain, say=said.append)
    on_the_way = float(next(line for line in said if line.startswith("step 300")).split()[4])
    assert results["bits_per_byte"]["validation"] == pytest.approx(on_the_way, abs=0.02)
    assert results["bits_per_byte"]["validation"] < 2.5
    with pytest.raises(ValueError, match="labels: None"):
        next_token_loss(None, None)


def test_the_last_stretch_counts_too(text, tmp_path):
    tokens = write_tokens([str(text)], byte_tokenizer(), tmp_path)
    torch.manual_seed(0)
    model = STUForCausalLM(STUConfig(**MODEL, vocab_size=257, filter_length=16, initializer_range=0.5)).eval()
    ids = torch.from_numpy(tokens.part("validation").astype(np.int64))
    context = len(ids) * 2 // 3
    bits = 0.0
    with torch.no_grad():
        for piece in (ids[: context + 1], ids[context:]):
            p = model(piece[None, :-1], use_cache=False).logits.double().log_softmax(-1).gather(-1, piece[None, 1:, None])
            bits -= float(p.sum()) / math.log(2)
    assert bits_per_byte(model, tokens, "validation", context) == pytest.approx(bits / (len(ids) - 1), rel=1e-5)


def test_the_card_says_what_the_model_is(trained):
    from huggingface_hub import ModelCard

    folder, results = trained
    card = ModelCard.load(folder / "model" / "README.md")
    assert card.data.tags == [*STUForCausalLM.model_tags, "stu"]
    assert card.data.eval_results[0].metric_value == round(results["bits_per_byte"]["test"], 4)
    assert f"| weights | {results['parameters']:,} |" in card.text
    assert "2 of width 16: STU, sliding_attention" in card.text
    loading = card.text.split("```python\n")[1].split("```")[0]
    words = {"FOLDER OR NAME": str(folder / "model"), "PROMPT": "line", "=200": "=5"}
    for word, value in words.items():
        loading = loading.replace(word, value)
    exec(compile(loading, "card", "exec"), {})


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(text, trained, tmp_path):
    def stop(line):
        if line.startswith("step 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_language_model(run_of(text), tmp_path / "run", say=stop)
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(ValueError, match=r"seed: 1; the run in .* has 0"):
        train_language_model(run_of(text, seed=1), tmp_path / "run", resume=True)
    with pytest.raises(FileExistsError, match="exists already"):
        train_language_model(run_of(text), tmp_path / "run")
    train_language_model(run_of(text), tmp_path / "run", resume=True, say=lambda line: None)
    same_weights(trained[0], tmp_path / "run")


def same_weights(first, second):
    models = [AutoModelForCausalLM.from_pretrained(path / "model") for path in (first, second)]
    for name, weight in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], weight), name
    assert models[0].config.use_cache


def test_bfloat16_multiplies_and_weights_stay(text, trained, tmp_path):
    results = train_language_model(run_of(text, bf16=True), tmp_path / "run", say=lambda line: None)
    assert results["bits_per_byte"]["test"] == pytest.approx(trained[1]["bits_per_byte"]["test"], rel=1e-2)
    models = [AutoModelForCausalLM.from_pretrained(path / "model") for path in (trained[0], tmp_path / "run")]
    assert {p.dtype for p in models[1].parameters()} == {torch.float32}
    tokens = TokenFile.load(tmp_path / "run" / "tokens.json")
    assert bits_per_byte(models[1], tokens, "test", 16) == results["bits_per_byte"]["test"]
    assert any(not torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_processes_share_a_batch(text, trained, tmp_path):
    """Two processes on gloo reach the weights of one, to rounding."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    model = [word for name, value in MODEL.items() for word in ("--set", f"model.{name}={json.dumps(value)}")]
    sizes = ["--context", "16", "--batch-size", "4", "--steps", "6", "--validate-every", "2"]
    command = [*start, "-m", "torchstu.cli.main", "lm", "train", str(text), "--output", str(tmp_path / "run"), *sizes, *model]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 6 of 6") == 1
    one, two = (AutoModelForCausalLM.from_pretrained(path / "model").state_dict() for path in (trained[0], tmp_path / "run"))
    for name, weight in one.items():
        assert (two[name] - weight).abs().max() < 1e-4, name
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["bits_per_byte"]["test"] == pytest.approx(trained[1]["bits_per_byte"]["test"], abs=1e-4)


def test_a_run_stopped_after_its_last_step_is_only_measured(text, trained, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("torchstu.integrations.transformers.language.bits_per_byte", stop)
        with pytest.raises(KeyboardInterrupt):
            train_language_model(run_of(text), tmp_path / "run", say=lambda line: None)
    (tmp_path / "run").rename(tmp_path / "moved")  # and found again somewhere else
    results = train_language_model(run_of(text), tmp_path / "moved", resume=True, say=lambda line: None)
    assert results["bits_per_byte"] == trained[1]["bits_per_byte"]
    same_weights(trained[0], tmp_path / "moved")
    assert train_language_model(run_of(text), tmp_path / "moved", resume=True, say=lambda line: None) == results


BAD = {
    "context: 0; it must be an integer of at least 1": {"context": 0},
    "learning_rate: 0.0; it must be a number from 0": {"learning_rate": 0.0},
    "warmup: 1.5": {"warmup": 1.5},
    "seed: -1": {"seed": -1},
    "model: pad_token_id; it is the tokenizer's": {"model": {"pad_token_id": 3}},
    "num_filters": {"model": {"num_filters": 64}},
    "tokenizer: nowhere.json: no such file": {"tokenizer": "nowhere.json"},
    "mixers: 'Mamba'": {"model": {"mixers": "Mamba"}},
    "context: 5000; there are": {"context": 5000},
    "files: nothing.txt: no such file": {"files": ("nothing.txt",)},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_runs_are_refused(message, options, text, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_language_model(LanguageRun(**{"files": (str(text),), "context": 16} | options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_requests_for_text_are_refused(trained):
    model = AutoModelForCausalLM.from_pretrained(trained[0] / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "model")
    for message, options in {
        "tokens: 0": {"tokens": 0}, "temperature: -1": {"temperature": -1},
        "temperature: nan": {"temperature": math.nan}, "top_k: 0; it must be": {"top_k": 0},
        "prompt: ''; it must have at least": {"prompt": ""},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            generate_text(model, tokenizer, **{"prompt": "a", "tokens": 2} | options)


def test_folders_stand_for_their_texts(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("b.txt", "a/c.md", "a/d.png"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    assert language_files([str(tmp_path)]) == (str(tmp_path / "a/c.md"), str(tmp_path / "b.txt"))
    with pytest.raises(ValueError, match="a folder without"):
        language_files([str(tmp_path / "empty")])


def test_the_command_trains_writes_and_measures(text, tmp_path, capsys):
    output = str(tmp_path / "run")
    train = ["lm", "train", str(text), "--output", output, "--steps", "4", "--validate-every", "2", "--context", "16"]
    options = ["--model.hidden_size", "16", "--model.num_attention_heads", "2", "--model.mixers", "TensordotSTU"]
    assert main([*train, *options]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main(["lm", "generate", f"{output}/model", "--prompt", "line", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("line")
    positions = str(tmp_path / "positions.csv")
    assert (
        main(["lm", "evaluate", f"{output}/model", str(text), "--context", "32", "--part", "all", "--positions", positions])
        == 0
    )
    rows = np.loadtxt(positions, delimiter=",", skiprows=1)
    assert rows.shape == (32, 2)
    said = capsys.readouterr().out
    assert float(said.split()[0]) == pytest.approx(rows[:, 1].mean(), abs=1e-4)
    assert f"{text.stat().st_size:,} bytes" in said


def test_another_tokenizer_is_not_taken_for_the_first(text, tmp_path):
    from tokenizers import Tokenizer, models

    file = tmp_path / "tokenizer.json"
    for size in (257, 258):
        vocabulary = {chr(0x100 + i): i for i in range(size)} | {"a": size}
        Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="a")).save(str(file))
        if size == 257:
            train_language_model(run_of(text, tokenizer=str(file), steps=1), tmp_path / "run", say=lambda line: None)
    with pytest.raises(ValueError, match="tokenizer_digest: "):
        train_language_model(run_of(text, tokenizer=str(file), steps=1), tmp_path / "run", resume=True)


def test_a_short_text_is_measured_whole(trained, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("one line of a text without an end of a line " * 3)
    model = str(trained[0] / "model")
    assert main(["lm", "evaluate", model, str(tmp_path / "short.txt"), "--part", "all", "--context", "32"]) == 0
    assert "132 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--output", "x", "--model.width", "3"], "model.width: unknown; it must be model. and one of"),
        (["train", "--output", "x", "--model.hidden_size", "wide"], "model.hidden_size: 'wide'; it must be of type int"),
        (["generate", "nowhere", "--prompt", "a"], "nowhere: no folder of a model"),
        (["evaluate", "nowhere", "--positions", "x.png"], "--positions: 'x.png'; it must end in .csv"),
    ],
)
def test_bad_commands_are_refused_in_a_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["lm", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
