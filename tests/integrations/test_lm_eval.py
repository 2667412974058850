"""The page's way into lm-eval's harness gives the bits per byte of the model's own logits."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from torchstu.integrations.transformers import STUConfig, STUForCausalLM
from torchstu.integrations.transformers.text import byte_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
VERSES = [
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void;",
    "Let there be ü.",
]


def block(language):
    return re.search(rf"```{language}\n((?:task|from pathlib)[^`]*)```", PAGE.read_text(encoding="utf-8"))[1]


@pytest.mark.long
def test_the_harness_finds_the_bits_of_the_logits(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval: make test-lm-eval")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = STUConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=2, mixers=["TensordotSTU", "sliding_attention"], num_filters=8,
        filter_length=32, sliding_window=16, num_attention_heads=2, initializer_range=0.3,
    )  # fmt: skip
    model, tokenizer = STUForCausalLM(config).eval(), byte_tokenizer()
    model.save_pretrained("scripture/model")
    tokenizer.save_pretrained("scripture/model")
    Path("tasks").mkdir()
    Path("tasks/verses.yaml").write_text(block("yaml"), encoding="utf-8")
    Path("tasks/verses.jsonl").write_text("".join(json.dumps({"text": verse}) + "\n" for verse in VERSES), encoding="utf-8")
    names: dict = {}
    exec(compile(block("py"), str(PAGE), "exec"), names)
    bits = 0.0
    for verse in VERSES:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer.encode(verse, add_special_tokens=False)]])
        with torch.no_grad():
            p = model(ids[:, :-1]).logits.double().log_softmax(-1).gather(-1, ids[:, 1:, None])
        bits -= float(p.sum()) / math.log(2)
    assert names["found"]["bits_per_byte,none"] == pytest.approx(bits / sum(len(verse.encode()) for verse in VERSES), rel=1e-4)
