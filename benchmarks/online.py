"""Online spectral filtering: regret against the theorems' rates, a million steps in constant memory, constant inputs for ever.

    python benchmarks/online.py --page docs/images/online-regret.svg

Everything runs on one core. Systems, inputs and noise are drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from machine import MIB, ROOT, describe, environment_line, limit_threads, markdown_table, resident_memory, save

LENGTH, COUNT = 1024, 24
FROM = 1000
"""Slopes are fitted from this step on."""
PLAIN = 50_000
"""Constant steps with plain forgetting."""
ON_THE_PAGE = (0, 2, 4)
"""Systems in the picture of docs/online.md."""
METHODS = ("rls", "gradient, adaptive", "gradient, R/(G√t)")


class Case(NamedTuple):
    """A system, its noises as shares of the clean output's deviation, and the y-term that the STU is given."""

    name: str
    lds: Any
    autoregression: str | None = "fixed"
    observation: float = 0.0
    process: float = 0.0


def cases() -> list[Case]:
    import torch

    import torchstu
    from torchstu import Rotations, Uniform

    def system(states: int, channels: int, spectrum: Any, seed: int) -> Any:
        return torchstu.random_lds(states, channels, channels, spectrum, torch.Generator().manual_seed(seed))

    rotating = system(32, 1, Rotations((0.9, 0.99), (0, 0.1), 2.0), 3)
    noisy = system(64, 1, Uniform(0.9, 0.999), 4)
    return [
        Case("the paper's: 4 states ±0.9999, 3 in, 3 out", system(4, 3, "paper", 0)),
        Case("symmetric, 256 states in ±[0.999, 1]", system(256, 1, Uniform(0.999, 1.0), 1)),
        Case("slowly forgetting, 64 states in ±[1-1e-4, 1-1e-6]", system(64, 1, Uniform(1 - 1e-4, 1 - 1e-6), 2)),
        Case("rotations, 32 states, |λ| in [0.9, 0.99], arg at most 0.1", rotating),
        Case("observation noise 10 %, 64 states in ±[0.9, 0.999]; no y-term", noisy, None, 0.1),
        Case("the same, fixed y-term", noisy, "fixed", 0.1),
        Case("process and observation noise 10 % each, the same; four learned output lags", noisy, "learned", 0.1, 0.1),
    ]  # fmt: skip


def response_norm(case: Case) -> float:
    """ℓ2 norm of what the weights have to be: the response less that two steps before, with the fixed y-term."""
    h = case.lds.impulse_response(20_000)
    if case.autoregression == "fixed":
        h[2:] = h[2:] - h[:-2].clone()
    return float(h.square().sum().sqrt())


def regret_of(case: Case, steps: int) -> dict[str, Any]:
    """Curves of all methods on one system."""
    import torch

    from torchstu.learn.online import OnlineSpectralFilter
    from torchstu.learn.online_regret import regret_curve
    from torchstu.systems.kalman import KalmanFilter

    u = torch.randn(steps, case.lds.d_in, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    spread = float(case.lds.simulate(u).std())
    process = observation = 0.0
    if case.process:  # so that what it brings to the output has its share of the deviation
        alone = case.lds.simulate(0 * u, process_noise=1.0, generator=torch.Generator().manual_seed(11))
        process = case.process * spread / float(alone.std())
    if case.observation:
        observation = case.observation * spread
    noise = torch.Generator().manual_seed(10)
    y = case.lds.simulate(u, process_noise=process, observation_noise=observation, generator=noise)
    rival = KalmanFilter(case.lds, process, observation).predict_next(u, y)
    lags = {"output_lags": 4} if case.autoregression == "learned" else {}
    radius, largest, methods = 2 * response_norm(case), None, {}
    for name in METHODS:
        options: dict[str, Any] = {"method": "rls"} if name == "rls" else {"method": "gradient", "radius": radius}
        if name == METHODS[2]:
            options["gradient_bound"] = largest
        model = OnlineSpectralFilter(
            case.lds.d_in, case.lds.d_out, length=LENGTH, num_filters=COUNT, autoregression=case.autoregression,
            **lags, **options,
        )  # fmt: skip
        start = time.perf_counter()
        curve = regret_curve(model, u, y, rival=rival)
        seconds = time.perf_counter() - start
        if name == METHODS[1]:
            largest = model.state_dict()["largest_gradient"]
        late = curve.steps[curve.steps >= FROM]
        against = curve.average_against_rival
        methods[name] = {
            "steps": curve.steps.tolist(), "average": curve.average.tolist(), "slope": curve.slope(FROM),
            "rate": -1 + 1 / float(math.log(late[0] * late[-1]) / 2) if name == "rls" else -0.5,
            "certificate": (curve.certificate / curve.steps).tolist(), "against_kalman": against.tolist(),
            "hindsight": (curve.hindsight / curve.steps).tolist(), "loss": (curve.loss / curve.steps).tolist(),
            "seconds": seconds,
        }  # fmt: skip
    return {
        "name": case.name, "autoregression": case.autoregression, "power": spread**2 * case.lds.d_out, "radius": radius,
        "gradient_bound": largest, "methods": methods,
    }  # fmt: skip


def modes_response(u: Any, seed: int) -> Any:
    """16 modes in ±[0.9, 0.9999] in float64, by SciPy's recursive filters: a million steps in a second."""
    import numpy as np
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    poles, gains = rng.uniform(0.9, 0.9999, 16) * rng.choice([-1, 1], 16), rng.normal(size=16)
    return sum(gain * lfilter([1], [1, -pole], u) for pole, gain in zip(poles, gains, strict=True))


def long_run(method: str, steps: int) -> dict[str, Any]:
    """One stream, in pieces of 10,000 steps; memory is read after a tenth of it and at the end."""
    import numpy as np
    import torch

    from torchstu.learn.online import OnlineSpectralFilter

    rng = np.random.default_rng(5)
    u = rng.standard_normal((steps, 1))
    y = modes_response(u[:, 0], 6)[:, None]
    options = {} if method == "rls" else {"radius": 100.0}
    model = OnlineSpectralFilter(1, 1, length=LENGTH, num_filters=COUNT, method=method, **options)
    pieces, held, errors, seconds = range(0, steps, steps // 100), [], [], 0.0
    for i, first in enumerate(pieces):
        piece = slice(first, first + steps // 100)
        start = time.perf_counter()
        predictions = model.run(u[piece], y[piece])
        seconds += time.perf_counter() - start
        errors.append(float(np.square(predictions - y[piece]).mean() / np.square(y).mean()))
        if i in (9, len(pieces) - 1):
            held.append(resident_memory())
    start = time.perf_counter()
    for t in range(2000):
        model.predict(u[t])
        model.update(y[t])
    state = [x for x in model.state_dict().values() if isinstance(x, torch.Tensor)]
    return {
        "steps": steps, "microseconds_a_step": 1e6 * seconds / steps, "seconds": seconds,
        "microseconds_predict_and_update": 1e6 * (time.perf_counter() - start) / 2000,
        "state_bytes": sum(x.numel() * x.element_size() for x in state), "memory_grown": held[1] - held[0],
        "first_piece": errors[0], "last_piece": errors[-1],
    }  # fmt: skip


def constant_inputs(steps: int) -> dict[str, Any]:
    """White inputs, a constant for very long, white inputs to another system; and the same without what holds it."""
    import numpy as np

    from torchstu.learn.online import OnlineSpectralFilter

    rng, forgetting = np.random.default_rng(7), 0.99
    u = rng.standard_normal((10_000, 1))
    before, after = modes_response(u[:, 0], 8)[:, None], modes_response(u[:, 0], 9)[:, None]
    model = OnlineSpectralFilter(1, 1, length=LENGTH, num_filters=COUNT, forgetting=forgetting)
    model.run(u, before)
    for _ in range(100):
        model.run(np.ones((steps // 100, 1)), np.ones((steps // 100, 1)))
    root = model.state_dict()["root"].numpy()
    relearned = model.run(u, after)
    bare = OnlineSpectralFilter(1, 1, length=LENGTH, num_filters=COUNT, forgetting=forgetting)
    bare._learner.period = 10**12  # plain exponential forgetting
    bare.run(u, before)
    bare.run(np.ones((PLAIN, 1)), np.ones((PLAIN, 1)))
    bare_root = bare.state_dict()["root"].numpy()
    bare_error = np.square(bare.run(u, after) - after)[:, 0] / np.square(after).mean()
    error = np.square(relearned - after)[:, 0] / np.square(after).mean()
    return {
        "steps": steps, "forgetting": forgetting, "ridge": 0.01, "largest_covariance": float(np.linalg.norm(root, 2) ** 2),
        "weights_finite": bool(np.isfinite(model.weights).all()), "relearned": float(error[-1000:].mean()),
        "relearned_first": float(error[:1000].mean()), "plain_steps": PLAIN,
        "plain_covariance": float(np.linalg.norm(bare_root, 2) ** 2), "plain_first": float(bare_error[:1000].mean()),
    }  # fmt: skip


def render(report: dict[str, Any]) -> str:
    rows = []
    for entry in report["regret"]:
        for name, curve in entry["methods"].items():
            rows.append([
                f"{entry['name']}; {name}", *(f"{_at(curve, 'average', t):.1e}" for t in (1000, 10_000)),
                f"{curve['average'][-1]:.1e}", f"{curve['slope']:.2f}", f"{curve['rate']:.2f}",
                f"{curve['certificate'][-1]:.1e}", f"{curve['hindsight'][-1]:.1e}", f"{curve['against_kalman'][-1]:.1e}",
                f"{entry['power']:.1e}",
            ])  # fmt: skip
    header = ["system; method", "T = 1,000", "10,000", f"{report['steps']:,}", "slope", "rate", "certificate", "hindsight",
              "against Kalman", "power"]  # fmt: skip
    runs = [
        [name, f"{run['seconds']:.0f}", f"{run['microseconds_a_step']:.0f}", f"{run['microseconds_predict_and_update']:.0f}",
         f"{run['state_bytes'] / 1024:.0f}", f"{run['memory_grown'] / MIB:.1f}", f"{run['last_piece']:.0e}"]
        for name, run in report["long"].items()
    ]  # fmt: skip
    constant, steps = report["constant"], report["long"]["rls"]["steps"]
    return "\n\n".join([
        "## Online learning",
        f"{environment_line(report['machine'], report['versions'])} One thread.", f"    {report['command']}",
        f"L = {LENGTH}, K = {COUNT}, white inputs of unit variance. The columns T are the average regret, (loss - least loss "
        "of fixed weights on the same T steps) / T. slope: of its logarithm against log T from T = 1,000; rate: the theorem's, "
        "-1/2 for gradient descent and the slope of log(T)/T for least squares. The others are at the last T, a step: "
        "certificate: what the learner itself knows of its regret; hindsight: least loss of fixed weights; against Kalman: "
        "loss less that of the Kalman filter of the true system, which without noise is the system itself; power: of the "
        "clean output. R is twice the norm of the true response, G the largest gradient that the adaptive run met.",
        markdown_table(header, rows), "![Average regret](online.svg)", f"### {steps:,} steps",
        markdown_table(["", "seconds", "µs a step", "µs by predict, update", "state, KiB", "memory grown, MiB",
                        "relative error, last 1 %"], runs),
        "16 modes in ±[0.9, 0.9999], one in, one out, pieces of 1 %. Memory grown: resident memory at the end less that after "
        "a tenth of the steps.",
        "### Constant inputs",
        f"Forgetting {constant['forgetting']}, ridge {constant['ridge']}: 10,000 white inputs, {constant['steps']:,} constant "
        f"ones, 10,000 white inputs to another system. The largest eigenvalue of the covariance S Sᵀ after the constant: "
        f"{constant['largest_covariance']:.4g}, where 2 / ridge = {2 / constant['ridge']:g} is the bound. Weights finite: "
        f"{constant['weights_finite']}. Relative error on the other system: {constant['relearned_first']:.1e} in its first, "
        f"{constant['relearned']:.1e} in its last 1,000 steps. "
        f"Plain forgetting, without the regularization put back: after {constant['plain_steps']:,} constant ones the "
        f"largest eigenvalue is {constant['plain_covariance']:.0e}, and the error in the first 1,000 "
        f"steps {constant['plain_first']:.0e}.",
    ])  # fmt: skip


def _at(curve: dict[str, Any], name: str, steps: int) -> float:
    """The value at the first T of at least ``steps``."""
    return next(value for t, value in zip(curve["steps"], curve[name], strict=True) if t >= steps or t == curve["steps"][-1])


def picture(entries: list[dict[str, Any]], path: Path) -> None:
    """A panel a system: average regret of every method, and the two rates through its value at T = 1,000."""
    import numpy as np

    from torchstu.report.figures import Panel, draw, standalone

    panels = []
    for entry in entries:
        series, references = {}, {}
        for name, curve in entry["methods"].items():
            t, average = np.array(curve["steps"]), np.array(curve["average"])
            series[name] = (t[average > 0], average[average > 0])
            late = t[t >= FROM]
            rate = np.log(late) / late if name == "rls" else late**-0.5
            references.setdefault("log(T)/T" if name == "rls" else "1/√T", (late, rate / rate[0] * _at(curve, "average", FROM)))
        panels.append(Panel(series, "T", "average regret", entry["name"], True, True, {}, references))
    path.write_text(standalone(draw(panels)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000, help="of a regret curve")
    parser.add_argument("--long", type=int, default=1_000_000, help="of the long streams")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "online.json")
    parser.add_argument("--page", type=Path, help="where to write the smaller picture of docs/online.md")
    options = parser.parse_args()
    limit_threads(1)
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np
    import torch

    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": "python benchmarks/online.py --page docs/images/online-regret.svg", "machine": describe(),
        "steps": options.steps,
        "versions": {"numpy": np.__version__, "torch": torch.__version__}, "regret": [], "long": {},
    }  # fmt: skip
    for case in cases():
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        report["regret"].append(regret_of(case, options.steps))
    for method in ("rls", "gradient"):
        print(f"{options.long} steps of {method} ...", file=sys.stderr, flush=True)
        report["long"][method] = long_run(method, options.long)
    print("constant inputs ...", file=sys.stderr, flush=True)
    report["constant"] = constant_inputs(options.long)
    text = render(report)
    print(text)
    save(options.output, report, text)
    picture(report["regret"], options.output.with_suffix(".svg"))
    if options.page:
        picture([report["regret"][i] for i in ON_THE_PAGE], options.page)


if __name__ == "__main__":
    main()
