"""Generation side by side: milliseconds a token and bytes of cache from 1,000 to 100,000 tokens.

    python benchmarks/language_generation.py --peer-python PYTHON [--quick]

Models of `language_models.py` at equal parameters, with random weights, batch 1, one thread. Each is a process: it reads random
tokens in pieces up to a position, then makes steps of one token there; the positions come in turns, round after round, so that
a drift of the machine hits all alike. PYTHON has what requirements-peers-language.txt lists; mambapy's own cache is stepped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import MIB, ROOT, describe, environment_line, limit_threads, markdown_table, save

POSITIONS = (1_000, 10_000, 100_000)
QUICK = (50, 100)
STEPS = 50
ROUNDS = 5


def worker(request: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: milliseconds and bytes by position."""
    limit_threads(1)
    import copy

    import torch

    from language_models_worker import VOCABULARY, MambaLM, matched_width
    from torchstu.integrations.transformers import STUCache, STUForCausalLM
    from torchstu.integrations.transformers.language import LanguageRun

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    make = MambaLM if request["mamba"] else STUForCausalLM
    width = matched_width(request["model"], make)
    model = make(LanguageRun(model=request["model"] | {"hidden_size": width}).config(VOCABULARY, None)).eval()
    stream = MambaStream(model) if request["mamba"] else Stream(model, STUCache(model.config))
    reached: dict[int, Any] = {}
    position = 0
    for wanted in request["positions"]:
        while position < wanted:
            count = min(2048, wanted - position)
            stream.read(torch.randint(0, VOCABULARY, (1, count)))
            position += count
        reached[wanted] = copy.deepcopy(stream)
    times: dict[int, list[float]] = {wanted: [] for wanted in reached}
    for _ in range(request["rounds"]):
        for wanted, at in reached.items():
            moving = copy.deepcopy(at)
            tokens = torch.randint(0, VOCABULARY, (1, STEPS + 5))
            for step in range(STEPS + 5):
                if step == 5:
                    began = time.perf_counter()
                moving.read(tokens[:, step : step + 1])
            times[wanted].append((time.perf_counter() - began) / STEPS * 1000)
    return {
        "width": width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "milliseconds": {str(wanted): statistics.median(found) for wanted, found in times.items()},
        "bytes": {str(wanted): at.bytes() for wanted, at in reached.items()},
        "torch": torch.__version__,
    }


class Stream:
    """A model of ours and its cache."""

    def __init__(self, model: Any, cache: Any) -> None:
        self.model, self.cache = model, cache

    def __deepcopy__(self, memo: Any) -> Stream:
        import copy

        return Stream(self.model, copy.deepcopy(self.cache))

    def read(self, ids: Any) -> Any:
        return self.model(ids, past_key_values=self.cache, logits_to_keep=1).logits

    def bytes(self) -> int:
        return self.cache.memory_bytes()


class MambaStream:
    """mambapy steps token by token, from the first on: its forward pass leaves no cache."""

    def __init__(self, model: Any, caches: Any = None) -> None:
        self.model, self.caches = model, caches

    def __deepcopy__(self, memo: Any) -> MambaStream:
        return MambaStream(self.model, None if self.caches is None else list(self.caches))  # a step makes new tensors

    def read(self, ids: Any) -> Any:
        import torch

        model = self.model
        if self.caches is None:
            config = model.mamba.config
            self.caches = [(None, torch.zeros(1, config.d_inner, config.d_conv - 1)) for _ in range(config.n_layers)]
        for token in ids[0]:
            x, self.caches = model.mamba.step(model.embedding(token[None]), self.caches)
        return torch.nn.functional.linear(model.norm(x), model.embedding.weight)

    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for cache in self.caches for x in cache)


def measure(name: str, model: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Start the worker of a model and wait."""
    mamba = name.startswith("Mamba")
    positions = QUICK if options.quick else POSITIONS
    request = {"model": model, "mamba": mamba, "positions": positions, "rounds": 2 if options.quick else ROUNDS}
    python = options.peer_python if mamba else sys.executable
    code = "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); from language_generation import worker\n"
    code += "print(json.dumps(worker(json.loads(sys.argv[2]))))"
    paths = [str(ROOT / "src"), str(ROOT / "benchmarks")]
    command = [str(python), "-c", code, json.dumps(paths), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(name, found["milliseconds"], found["bytes"], flush=True)
    return found


def report(rows: dict[str, dict[str, Any]], machine: dict[str, Any]) -> str:
    """The page."""
    positions = list(next(iter(rows.values()))["milliseconds"])
    lines = [
        [name, f"{row['parameters']:,}", *(f"{row['milliseconds'][p]:.2f}" for p in positions)]
        + [f"{row['bytes'][p] / MIB:.3f}" for p in positions]
        for name, row in rows.items()
    ]
    header = ["model", "parameters", *(f"ms at {int(p):,}" for p in positions), *(f"MiB at {int(p):,}" for p in positions)]
    environment = environment_line(machine, {"torch": next(iter(rows.values()))["torch"]})
    return (
        "## Generation\n\n    python benchmarks/language_generation.py --peer-python PYTHON\n\nMilliseconds a token, size of "
        f"the cache after so many tokens; batch 1, one thread, median of {ROUNDS} rounds of {STEPS} steps. {environment}\n\n"
        f"{markdown_table(header, lines)}"
    )


def main() -> None:
    from language_models import MODELS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter of the peer's environment; without it Mamba is left out")
    parser.add_argument("--quick", action="store_true", help="a few tokens, into build/: does everything run?")
    options = parser.parse_args()
    machine = describe()
    rows = {
        name: measure(name, model, options)
        for name, model in MODELS.items()
        if options.peer_python or not name.startswith("Mamba")
    }
    folder = ROOT / "build" if options.quick or len(rows) < len(MODELS) else ROOT / "benchmarks" / "results"
    save(Path(folder) / "language_generation.json", {"machine": machine, "models": rows}, report(rows, machine))


if __name__ == "__main__":
    main()
