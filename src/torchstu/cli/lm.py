"""``torchstu lm``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from torchstu.cli.outputs import check_file
from torchstu.extras import require

EXAMPLE = """\
example:
  torchstu lm train --output scripture
  torchstu lm train my-texts/ --tokenizer tokenizer.json --model.hidden_size 256 --steps 5000 --output my-model
  torchstu lm generate scripture/model --prompt "In the beginning" --tokens 400
  torchstu lm evaluate scripture/model --context 4096 --positions positions.csv

Training without FILES takes a text that ships with the package. --model.KEY VALUE sets what STUConfig has, as --model.mixers
STU,sliding_attention or --model.num_hidden_layers 6. A run that was stopped goes on with the same command and --resume."""
RUN = {
    "context": (int, "tokens that the model reads at once in training (default: 256)"),
    "batch_size": (int, "such stretches in a step (default: 8)"),
    "steps": (int, "steps of the optimizer (default: 1500)"),
    "learning_rate": (float, "the highest (default: 3e-3)"),
    "weight_decay": (float, "of matrices (default: 0.1)"),
    "validate_every": (int, "steps between validations, and checkpoints (default: 250)"),
    "seed": (int, "of weights and order (default: 0)"),
}


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "lm",
        help="language models: train on text files, generate, measure",
        description="Train a language model on text, let it write, measure its bits per byte.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_train(actions)
    _add_generate(actions)
    _add_evaluate(actions)


def _add_train(actions: Any) -> None:
    parser = actions.add_parser(
        "train", help="train on text files", description="Train on UTF-8 text, by bytes or any tokenizer."
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="texts, or folders of .txt and .md files")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="new folder for the model, checkpoints and results")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, or a folder with one (default: bytes)")
    for name, (kind, words) in RUN.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=kind, metavar="N", help=words)
    parser.add_argument("--bf16", action="store_true", default=None, help="multiply in bfloat16; weights stay in float32")
    parser.add_argument("--set", metavar="model.KEY=VALUE", action="append", default=[], help="the same as --model.KEY VALUE")
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER")
    parser.set_defaults(run=train)


def _add_generate(actions: Any) -> None:
    parser = actions.add_parser(
        "generate", help="write on from a prompt", description="Write on from a prompt, in constant memory."
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model, as FOLDER/model of a training")
    parser.add_argument("--prompt", metavar="TEXT", help="how the text begins (default: standard input)")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="how many to add (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: the likeliest always (default: 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (default: 0)")
    parser.set_defaults(run=generate)


def _add_evaluate(actions: Any) -> None:
    parser = actions.add_parser("evaluate", help="bits per byte", description="Bits per byte of texts, or of a part of each.")
    parser.add_argument("model", metavar="MODEL", help="folder of a model")
    parser.add_argument("files", metavar="FILE", nargs="*", help="texts (default: the one that ships with the package)")
    parts = {"train": "the first 90 %", "validation": "the next twentieth", "test": "the last twentieth", "all": "everything"}
    said = ", ".join(f"{name} ({share})" for name, share in parts.items())
    parser.add_argument("--part", choices=parts, default="test", help=f"of each text: {said}; default: test")
    parser.add_argument("--context", type=int, default=256, metavar="N", help="tokens that are read at once (default: 256)")
    parser.add_argument("--positions", metavar="FILE.csv", help="where bits per byte by position in the context go")
    parser.set_defaults(run=evaluate)


def train(arguments: argparse.Namespace) -> None:
    """Read the words, train."""
    require("transformers", "transformers")
    from torchstu.integrations.transformers.language import LanguageRun, train_language_model
    from torchstu.integrations.transformers.text import language_files

    given = {name: getattr(arguments, name) for name in (*RUN, "bf16") if getattr(arguments, name) is not None}
    run = LanguageRun(language_files(arguments.files), arguments.tokenizer, _model_options(arguments.set), **given)
    train_language_model(run, arguments.output, resume=arguments.resume, progress=sys.stderr.isatty())


def _model_options(words: list[str]) -> dict[str, Any]:
    """``model.KEY=VALUE`` as arguments of `STUConfig`, of the type that its default has.

    Raises:
        ValueError: an unknown key, or a value of another type.
    """
    import json

    from torchstu.integrations.transformers import STUConfig
    from torchstu.integrations.transformers.language import GIVEN

    known, options = set(STUConfig.__annotations__) - GIVEN, {}
    for word in words:
        path, _, value = word.partition("=")
        key = path.removeprefix("model.")
        if not path.startswith("model.") or key not in known:
            raise ValueError(f"{path}: unknown; it must be model. and one of {', '.join(sorted(known))}")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value.split(",") if key == "mixers" else value
        wanted = type(getattr(STUConfig, key, None))
        if wanted in (int, float, bool) and not isinstance(options[key], (int, float) if wanted is float else wanted):
            raise ValueError(f"{path}: {value!r}; it must be of type {wanted.__name__}")
    return options


def _load(path: str) -> tuple[Any, Any]:
    require("transformers", "transformers")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    import torchstu.integrations.transformers  # noqa: F401  (registers the model)

    if not (Path(path) / "config.json").is_file():
        raise ValueError(f"{path}: no folder of a model, there is no config.json")
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def generate(arguments: argparse.Namespace) -> None:
    """Load, write on."""
    model, tokenizer = _load(arguments.model)
    from torchstu.integrations.transformers.evaluation import generate_text

    prompt = sys.stdin.read() if arguments.prompt is None else arguments.prompt

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    write(prompt)
    generate_text(
        model, tokenizer, prompt, arguments.tokens,
        temperature=arguments.temperature, top_k=arguments.top_k, seed=arguments.seed, write=write,
    )  # fmt: skip
    write("\n")


def evaluate(arguments: argparse.Namespace) -> None:
    """Load, measure, write."""
    import tempfile

    if arguments.positions is not None:
        check_file(arguments.positions, ".csv", option="--positions")
    model, tokenizer = _load(arguments.model)
    from torchstu.integrations.transformers.evaluation import bits_by_position, bits_per_byte
    from torchstu.integrations.transformers.text import language_files, write_tokens
    from torchstu.report.page import write_text

    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens(language_files(arguments.files), tokenizer, Path(folder))
        mean = bits_per_byte(model, tokens, arguments.part, arguments.context)
        bits = bits_by_position(model, tokens, arguments.part, arguments.context) if arguments.positions is not None else ()
    print(f"{mean:.4f} bits per byte, {tokens.bytes[arguments.part]:,} bytes in stretches of {arguments.context} tokens")
    if arguments.positions is not None:
        lines = "".join(f"{position},{value:.6f}\n" for position, value in enumerate(bits, start=1))
        write_text(Path(arguments.positions), "tokens_before,bits_per_byte\n" + lines)
