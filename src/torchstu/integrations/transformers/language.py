"""Training language models on text, with the library's Trainer."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import set_seed

from torchstu.integrations.transformers.card import language_card
from torchstu.integrations.transformers.configuration import STUConfig
from torchstu.integrations.transformers.evaluation import bits_per_byte, generate_text
from torchstu.integrations.transformers.modeling import STUForCausalLM
from torchstu.integrations.transformers.text import PARTS, TokenFile, Windows, load_tokenizer, write_tokens
from torchstu.integrations.transformers.trainer import Clock, last_checkpoint, make_trainer, training_arguments
from torchstu.whole_file import clear_drafts, whole_file

SMALL: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "mixers": ["TensordotSTU", "sliding_attention"],
    "num_filters": 16, "sliding_window": 64, "max_position_embeddings": 131_072,
}  # fmt: skip
"""A model for minutes on two cores."""
PROMPT, SAMPLE = 24, 300
"""Tokens before and of the sample of a trained model."""


GIVEN = {"vocab_size", "eos_token_id", "pad_token_id", "layer_types"}
"""What the tokenizer or the layers say of a model."""


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
        bf16: whether matrices are multiplied in bfloat16; weights stay in float32.

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
    bf16: bool = False

    def __post_init__(self) -> None:
        for name in ("context", "batch_size", "steps", "validate_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {value!r}; it must be an integer of at least 1")
        for name, low, high in (("learning_rate", 0.0, math.inf), ("warmup", 0.0, 1.0), ("weight_decay", 0.0, math.inf)):
            value = getattr(self, name)
            if isinstance(value, (str, bool)) or not low <= value < high or (name == "learning_rate" and value == 0):
                raise ValueError(f"{name}: {value!r}; it must be a number from {low:g} to {high:g}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: {self.seed!r}; it must be an integer from 0 to 2^32 - 1")
        if not isinstance(self.bf16, bool):
            raise ValueError(f"bf16: {self.bf16!r}; it must be True or False")
        if not self.clip > 0:
            raise ValueError(f"clip: {self.clip!r}; it must be above 0")
        if isinstance(self.files, str):
            raise ValueError(f"files: {self.files!r}; it must be a list of files")
        for name in GIVEN & set(self.model):
            raise ValueError(f"model: {name}; it is the tokenizer's, and cannot be given")

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
    `AutoModelForCausalLM` and `AutoTokenizer` load, with a card that has a sample) and ``results.json``.

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
    arguments = training_arguments(run, folder, progress)
    first = arguments.process_index == 0
    with arguments.main_process_first(local=False):
        tokens, tokenizer = _prepared(run, folder, make_model, resume or not first)
    say = say if first else lambda line: None
    if resume and (folder / "results.json").is_file():
        say(f"{folder}: is complete")
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    say(f"{tokens.tokens['train']:,} tokens to learn from, {tokens.bytes['train']:,} bytes; {len(tokenizer)} kinds")
    if not tokens.lossless:
        say("the tokenizer does not give the text back: its bits per byte leave out what is lost")
    set_seed(run.seed)
    config = run.config(tokens.vocab_size, tokenizer.eos_token_id)
    model = make_model(config)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{parameters:,} weights" + (f" in layers {', '.join(config.layer_mixers)}" if make_model is STUForCausalLM else ""))
    checkpoint, done, times = last_checkpoint(folder) if resume else (None, 0, {})
    clock = Clock(**times)
    trainer = make_trainer(run, arguments, model, tokens, say, clock)
    if checkpoint is not None and done >= run.steps:
        trainer._load_from_checkpoint(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # what is measured is what is saved
    with arguments.main_process_first(local=False):
        if first:
            _finish(run, folder, model, tokenizer, tokens, _measured(run, model, tokens, clock), say)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _finish(
    run: LanguageRun, folder: Path, model: Any, tokenizer: Any, tokens: TokenFile, results: dict[str, Any], say: Any
) -> None:
    """Write model, card and results, say how good it is."""
    model.config.use_cache = True  # the trainer's, which keeps none, is not for those who load the model
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    if isinstance(model, STUForCausalLM):
        prompt, sample = _sample(model, tokenizer, tokens)
        say(f"a sample: [{prompt}]{sample}")
        card = language_card(model.config, results, run.files, prompt, sample, context=run.context, tags=model.model_tags)
        (folder / "model" / "README.md").write_text(card, encoding="utf-8")
    with whole_file(folder / "results.json") as draft:
        draft.write_text(json.dumps(results, indent=1), encoding="utf-8")
    found, minutes = results["bits_per_byte"], results["seconds"] / 60
    say(f"bits per byte: {found['validation']:.3f} in validation, {found['test']:.3f} in the test; {minutes:.1f} minutes")


def _sample(model: Any, tokenizer: Any, tokens: TokenFile) -> tuple[str, str]:
    """The first words of the test text, and what the model writes after them."""
    prompt = tokenizer.decode(tokens.part("test")[:PROMPT])
    return prompt, generate_text(model, tokenizer, prompt, SAMPLE)


def _measured(run: LanguageRun, model: Any, tokens: TokenFile, clock: Clock) -> dict[str, Any]:
    """What is known of a trained model."""
    seconds = clock.seconds
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_byte": {part: bits_per_byte(model, tokens, part, run.context) for part in PARTS[1:]},
        "steps": run.steps,
        "seconds": seconds,
        "tokens_per_second": run.steps * run.batch_size * run.context / clock.stepping,
        "lossless": tokens.lossless,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _prepared(run: LanguageRun, folder: Path, make_model: Callable[[STUConfig], Any], resume: bool) -> tuple[TokenFile, Any]:
    """The tokens of a run, made or found; what cannot be trained is refused before anything is written."""
    tokenizer, described = load_tokenizer(run.tokenizer), json.loads(json.dumps(asdict(run)))
    described["tokenizer_digest"] = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    if resume:
        file = folder / "run.json"
        if not file.is_file():
            raise ValueError(f"output: {folder}: no run.json; with resume it must be the folder of a run")
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in described.items():
            if before.get(name) != value:
                raise ValueError(f"{name}: {value!r}; the run in {folder} has {before.get(name)!r}")
        for name in ("run.json", "tokens.json", "results.json"):
            clear_drafts(folder / name)
        if (folder / "tokens.json").is_file():
            return TokenFile.load(folder / "tokens.json"), tokenizer
    elif folder.exists():
        raise FileExistsError(f"{folder}: exists already; give a folder that does not, or resume")
    for name in run.files:
        if not Path(name).is_file():
            raise ValueError(f"files: {name}: no such file")
    try:
        with torch.device("meta"):
            make_model(run.config(len(tokenizer), None))
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"model: {run.model}: {error}") from error
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tokens = write_tokens(run.files, tokenizer, folder)
        for part in PARTS:
            if tokens.tokens[part] < 2:
                raise ValueError(f"files: {tokens.tokens[part]} tokens for {part}; the text must be longer, or have more lines")
            Windows(tokens.part(part), run.context)
        with whole_file(folder / "run.json") as draft:
            draft.write_text(json.dumps(described, indent=1), encoding="utf-8")
        tokens.save(folder / "tokens.json")
    except BaseException:
        if made:
            shutil.rmtree(folder)
        raise
    return tokens, tokenizer
