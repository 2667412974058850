"""One run of `language_models.py`: trains, measures, prints what it found as JSON. A finished run is read, not repeated."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from torchstu.experiments.reproduce.systems import nearest_size
from torchstu.integrations.transformers import STUConfig, STUForCausalLM
from torchstu.integrations.transformers.evaluation import bits_by_position, generate_text
from torchstu.integrations.transformers.language import LanguageRun, train_language_model
from torchstu.integrations.transformers.text import TokenFile, byte_tokenizer

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


def main() -> None:
    request = json.loads(sys.argv[1])
    output, found = Path(request["output"]), Path(request["output"]) / "found.json"
    if not found.is_file():
        make = MambaLM if request["mamba"] else STUForCausalLM
        width = matched_width(request["run"]["model"], make)
        run = LanguageRun(**request["run"] | {"model": request["run"]["model"] | {"hidden_size": width}})
        resume = (output / "run.json").is_file()
        results = train_language_model(run, output, make_model=make, resume=resume, say=lambda line: None)
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
        results["width"] = width
        model.generation_config.use_cache = not request["mamba"]  # mambapy's forward pass leaves no cache
        results["sample"] = generate_text(model, byte_tokenizer(), "And the LORD said unto", 200)
        (output / "tokens.bin").unlink()
        found.write_text(json.dumps(results))
    print(json.dumps(json.loads(found.read_text())))


if __name__ == "__main__":
    main()
