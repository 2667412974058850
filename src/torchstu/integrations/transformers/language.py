"""Training language models on text, with the library's Trainer."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from torchstu.integrations.transformers.configuration import STUConfig
from torchstu.integrations.transformers.evaluation import bits_per_byte
from torchstu.integrations.transformers.modeling import STUForCausalLM
from torchstu.integrations.transformers.text import TokenFile, Windows, load_tokenizer, write_tokens
from torchstu.learn.optimizers import parameter_groups
from torchstu.whole_file import whole_file

SMALL: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "mixers": ["TensordotSTU", "sliding_attention"],
    "num_filters": 16, "sliding_window": 64, "max_position_embeddings": 131_072,
}  # fmt: skip
"""A model for minutes on two cores."""
VALIDATED = 2**15
"""Tokens of a validation on the way; the last one reads all."""


@dataclass(frozen=True)
class LanguageRun:
    """What a training is made of.

    Attributes:
        files: UTF-8 texts; none: the one that ships with the package.
        tokenizer: path of a ``tokenizer.json``, or None for bytes.
        model: arguments of `STUConfig` over `SMALL`; ``filter_length`` is ``context`` unless given.
        context: tokens that the model reads at once in training.
        batch_size: such stretches in a step.
        steps: of the optimizer.
        learning_rate: the highest, after the warm-up; a cosine leads to a tenth of it.
        warmup: share of the steps.
        weight_decay: not of biases, norms and weights that their layer exempts.
        clip: the largest norm of the gradient.
        validate_every: steps between two validations, and checkpoints.
        seed: of weights and of the order of the stretches.

    Raises:
        ValueError: numbers out of range, or what `STUConfig` refuses.
    """

    files: tuple[str, ...] = ()
    tokenizer: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    context: int = 256
    batch_size: int = 8
    steps: int = 1500
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    validate_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("context", "batch_size", "steps", "validate_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {value!r}; it must be an integer of at least 1")
        for name, low, high in (("learning_rate", 0.0, math.inf), ("warmup", 0.0, 1.0), ("weight_decay", 0.0, math.inf)):
            value = getattr(self, name)
            if not low <= value < high or (name == "learning_rate" and value == 0):
                raise ValueError(f"{name}: {value!r}; it must be a number from {low:g} to {high:g}")

    def config(self, vocab_size: int, end: int | None) -> STUConfig:
        """The model's configuration."""
        options = SMALL | {"filter_length": self.context} | self.model
        return STUConfig(**options | {"vocab_size": vocab_size, "eos_token_id": end, "pad_token_id": None})


def train_language_model(
    run: LanguageRun,
    output: Path | str,
    *,
    make_model: Callable[[STUConfig], Any] = STUForCausalLM,
    resume: bool = False,
    say: Callable[[str], None] = print,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a byte-level (or tokenized) language model, measure it, write it.

    ``output`` gets ``run.json``, ``tokens.bin``, ``checkpoints/``, ``model/`` (weights, configuration, tokenizer: what
    `AutoModelForCausalLM` and `AutoTokenizer` load) and ``results.json``.

    Args:
        run: what to train.
        output: a folder that does not exist, or with ``resume`` one of a run that was stopped.
        make_model: a causal language model of the library from the run's configuration: of another kind, to compare.
        resume: go on from the last checkpoint; the run must be the same.
        say: gets lines of text.
        progress: whether the library shows its bars.

    Returns:
        What ``results.json`` has: parameters, bits per byte on validation and test parts, seconds, tokens a second.

    Raises:
        ValueError: what the run, its files or its model are refused for, or another run to be resumed.
        FileExistsError: ``output`` is there without ``resume``.
    """
    folder = Path(output)
    tokens, tokenizer = _prepared(run, folder, resume)
    say(f"{tokens.tokens['train']:,} tokens to learn from, {tokens.bytes['train']:,} bytes; {len(tokenizer)} kinds")
    set_seed(run.seed)
    config = run.config(len(tokenizer), tokenizer.eos_token_id)
    model = make_model(config)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{parameters:,} weights" + (f" in layers {', '.join(config.layer_mixers)}" if make_model is STUForCausalLM else ""))
    began = time.perf_counter()
    trainer = _trainer(run, folder, model, tokens, say, progress)
    trainer.train(resume_from_checkpoint=_last_checkpoint(folder) if resume else None)
    seconds = time.perf_counter() - began
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    results = {
        "parameters": parameters,
        "bits_per_byte": {part: bits_per_byte(model, tokens, part, run.context) for part in ("validation", "test")},
        "steps": run.steps,
        "seconds": seconds,
        "tokens_per_second": run.steps * run.batch_size * run.context / seconds,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    with whole_file(folder / "results.json") as draft:
        draft.write_text(json.dumps(results, indent=1), encoding="utf-8")
    found = results["bits_per_byte"]
    say(f"bits per byte: {found['validation']:.3f} in validation, {found['test']:.3f} in the test; {seconds / 60:.1f} minutes")
    return results


def _prepared(run: LanguageRun, folder: Path, resume: bool) -> tuple[TokenFile, Any]:
    """The tokens of a run, made or found."""
    tokenizer, described = load_tokenizer(run.tokenizer), json.loads(json.dumps(asdict(run)))
    if resume:
        file = folder / "run.json"
        if not file.is_file():
            raise ValueError(f"output: {folder}: no run.json; with resume it must be the folder of a run")
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in described.items():
            if before.get(name) != value:
                raise ValueError(f"{name}: {value!r}; the run in {folder} has {before.get(name)!r}")
        if (folder / "tokens.json").is_file():
            return TokenFile.load(folder / "tokens.json"), tokenizer
    elif folder.exists():
        raise FileExistsError(f"{folder}: exists already; give a folder that does not, or resume")
    run.config(len(tokenizer), None)  # refused before anything is written
    for name in run.files:
        if not Path(name).is_file():
            raise ValueError(f"files: {name}: no such file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    tokens = write_tokens(run.files, tokenizer, folder)
    for part in ("train", "validation", "test"):
        Windows(tokens.part(part), run.context)
    tokens.save(folder / "tokens.json")
    return tokens, tokenizer


def _trainer(
    run: LanguageRun, folder: Path, model: Any, tokens: TokenFile, say: Callable[[str], None], progress: bool
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=run.steps,
        per_device_train_batch_size=run.batch_size,
        per_device_eval_batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=math.ceil(run.warmup * run.steps),
        max_grad_norm=run.clip,
        logging_steps=max(1, run.validate_every // 5),
        eval_strategy="steps",
        eval_steps=run.validate_every,
        save_steps=run.validate_every,
        save_total_limit=2,
        seed=run.seed,
        report_to=[],
        disable_tqdm=not progress,
        use_cpu=not torch.cuda.is_available(),
    )
    groups = parameter_groups(model, run.learning_rate, run.weight_decay)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Windows(tokens.part("train"), run.context),
        eval_dataset=_some(Windows(tokens.part("validation"), run.context)),
        optimizers=(torch.optim.AdamW(groups, lr=run.learning_rate, betas=(0.9, 0.95)), None),
        callbacks=[_Says(say, tokens)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _some(windows: Windows) -> Any:
    """At most `VALIDATED` tokens, evenly taken: what a validation on the way reads."""
    step = -(-len(windows) * windows.context // VALIDATED)
    return torch.utils.data.Subset(windows, range(0, len(windows), step))


class _Says(TrainerCallback):
    """A line after each validation."""

    def __init__(self, say: Callable[[str], None], tokens: TokenFile) -> None:
        self.say, self.rate = say, tokens.tokens["validation"] / tokens.bytes["validation"] / math.log(2)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any) -> None:
        loss = (metrics or {}).get("eval_loss", math.nan)
        self.say(f"step {state.global_step} of {args.max_steps}: {loss * self.rate:.3f} bits per byte in validation")


def _last_checkpoint(folder: Path) -> str | None:
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if (path / "trainer_state.json").is_file()]
    return str(whole[-1]) if whole else None
