"""The model card of a language model: what hubs and readers find beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from torchstu.integrations.transformers.configuration import STUConfig

LOADING = """```python
import torchstu.integrations.transformers  # pip install "torchstu[transformers]"; registers the model type "stu"
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER OR NAME")
tokenizer = AutoTokenizer.from_pretrained("FOLDER OR NAME")
tokens = tokenizer("PROMPT", return_tensors="pt", add_special_tokens=False).input_ids
print(tokenizer.decode(model.generate(tokens, max_new_tokens=200, do_sample=True)[0]))
```"""


def language_card(
    config: STUConfig,
    results: dict[str, Any],
    files: Sequence[str],
    prompt: str,
    sample: str,
    *,
    context: int,
    tags: Sequence[str],
) -> str:
    """Markdown with the YAML block that model hubs read.

    Args:
        config: of the model.
        results: of `train_language_model`.
        files: names of the texts it was trained on; none: the one that ships with the package.
        prompt: how a text of the model began.
        sample: how it went on.
        context: tokens that the model read at once in training.
        tags: of the model.
    """
    data = ", ".join(Path(name).name for name in files) or "the text that ships with torchstu, see its data/SCRIPTURE.md"
    found = results["bits_per_byte"]
    measured = EvalResult(
        task_type="text-generation", dataset_type="text", dataset_name=data, dataset_split="test", metric_type="bits_per_byte",
        metric_name="bits per byte", metric_value=round(found["test"], 4),
    )  # fmt: skip
    layers = ", ".join(dict.fromkeys(config.layer_mixers))
    head = ModelCardData(
        library_name="transformers",
        license="unknown",
        tags=[*tags, "stu"],
        pipeline_tag="text-generation",
        model_name=f"STU language model ({layers})",
        eval_results=[measured],
    )
    rows = [
        ("weights", f"{results['parameters']:,}"),
        ("layers", f"{config.num_hidden_layers} of width {config.hidden_size}: {layers}"),
        ("tokens", f"{config.vocab_size:,} kinds"),
        ("trained on", data),
        ("training", f"{results['steps']:,} steps, {context} tokens at once, {results['tokens_per_second']:,.0f} tokens/s"),
        ("bits per byte, validation", f"{found['validation']:.3f}"),
        ("bits per byte, test", f"{found['test']:.3f}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["environment"].items())),
    ]
    if not results["lossless"]:
        rows.append(("tokenizer", "does not give the text back: bits per byte leave out what is lost"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    quoted = "\n".join(f"> {line}" for line in f"**{prompt}**{sample}".splitlines())
    return (
        f"---\n{head.to_yaml()}\n---\n\n# {head.model_name}\n\nTrained with `torchstu lm train`. It generates in memory that "
        f"does not grow, unless it has full attention.\n\n| | |\n|---|---|\n{table}\n\n## Loading\n\n{LOADING}\n\n"
        f"## What it writes\n\nTemperature 0.8, after the words in bold:\n\n{quoted}\n"
    )
