"""One run of `language_models.py`: trains, measures, prints what it found as JSON. A finished run is read, not repeated."""

from __future__ import annotations

import fcntl
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from machine import describe
from torchstu.experiments.reproduce.systems import nearest_size
from torchstu.integrations.transformers import STUConfig, STUForCausalLM
from torchstu.integrations.transformers.evaluation import bits_by_position, generate_text
from torchstu.integrations.transformers.language import LanguageRun, train_language_model
from torchstu.integrations.transformers.text import TokenFile, byte_tokenizer
from torchstu.whole_file import whole_file

VOCABULARY = 257
HEADS = 6
"""Widths are multiples of it."""
LAYERS = {"mamba": 6}


class MambaLM(PreTrainedModel, GenerationMixin):
    """Embedding, mambapy's stack with its own norms and residual sums, the embedding again: no MLPs, as published."""

    config_class = STUConfig

    def __init__(self, config: STUConfig) -> None:
        super().__init__(config)
        from mambapy.mamba import Mamba, MambaConfig

        self.embedding = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        torch.nn.init.normal_(self.embedding.weight, std=0.02)
        self.mamba = Mamba(MambaConfig(d_model=config.hidden_size, n_layers=LAYERS["mamba"]))
        self.norm = torch.nn.RMSNorm(config.hidden_size)

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> CausalLMOutputWithPast:
        logits = torch.nn.functional.linear(self.norm(self.mamba(self.embedding(input_ids))), self.embedding.weight)
        return CausalLMOutputWithPast(logits=logits)


def matched_width(model: dict[str, Any], make: Any) -> int:
    """The width at which a model comes closest to the default's number of parameters."""

    def count(options: dict[str, Any], kind: Any) -> int:
        config = LanguageRun(model=options).config(VOCABULARY, None)
        with torch.device("meta"):
            return sum({id(p): p.numel() for p in kind(config).parameters()}.values())

    target = count({}, STUForCausalLM)
    return HEADS * nearest_size(lambda width: count(model | {"hidden_size": HEADS * width}, make), target, 128)[0]


def measured(request: dict[str, Any], output: Path) -> dict[str, Any]:
    """Train, or go on with training, and measure."""
    make = MambaLM if request["mamba"] else STUForCausalLM
    width = matched_width(request["run"]["model"], make)
    run = LanguageRun(**request["run"] | {"model": request["run"]["model"] | {"hidden_size": width}})
    begun = (output / "run.json").is_file()
    if output.exists() and not begun:
        shutil.rmtree(output)  # stopped before its text was tokenized
    results = train_language_model(run, output, make_model=make, resume=begun, say=lambda line: None)
    model = make(run.config(VOCABULARY, None)).eval()
    left = model.load_state_dict(load_file(output / "model" / "model.safetensors"), strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"lm_head.weight"}:  # the head is the embedding
        raise RuntimeError(f"{output}: {left}")
    tokens, context = TokenFile.load(output / "tokens.json"), run.context * request["contexts"]
    bits = bits_by_position(model, tokens, "test", context)
    edges = [0, 16, 64, run.context] + [run.context * times for times in (2, 4, 8, 16) if times <= request["contexts"]]
    results["by_position"] = {f"{a + 1}-{b}": float(bits[a:b].mean()) for a, b in itertools.pairwise(edges)}
    cuts = [0, *sorted({round(2 ** (power / 3)) for power in range(3, 3 * 20)} & set(range(context))), context]
    results["curve"] = [((a + b) / 2, float(bits[a:b].mean())) for a, b in itertools.pairwise(cuts)]
    results["width"], results["revision"] = width, describe()["revision"]
    model.generation_config.use_cache = not request["mamba"]  # mambapy's forward pass leaves no cache
    results["sample"] = generate_text(model, byte_tokenizer(), "And the LORD said unto", 200)
    return results


def main() -> None:
    request = json.loads(sys.argv[1])
    output = Path(request["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    found = output.parent / f"{output.name}.json"
    with (output.parent / f"{output.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a benchmark that was killed may have left this very run at work
        known = json.loads(found.read_text()) if found.is_file() else None
        if known is None:
            known = {"request": request, "results": measured(request, output)}
            with whole_file(found) as draft:
                draft.write_text(json.dumps(known))
            (output / "tokens.bin").unlink(missing_ok=True)
    if known["request"] != request:
        raise RuntimeError(f"{found}: of another request, {known['request']}; delete it, or give another --work")
    print(json.dumps(known["results"]))


if __name__ == "__main__":
    main()
