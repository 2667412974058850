"""Error against the number of filters: closed form, bounds, and gradient descent; the page is in `paper_filters_sections`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Settings, Trial
from torchstu.experiments.reproduce.paper_filters_sections import BANKS, BOUND, CLOSED, GRADIENT, sections


def trials(settings: Settings, seed: int) -> list[Trial]:
    """Closed-form fits by bank, written weights beside the bound, and gradient training, for each system and seed."""
    common = {name: settings[name] for name in ("length", "fitted", "validation")}
    planned: list[Trial] = []
    for name, system in settings["systems"].items():
        for i in range(settings["seeds"]):
            base = common | {"name": name, "system": dict(system), "seed": seed + i}
            planned += [base | {"kind": CLOSED, "bank": bank, "counts": settings["counts"]} for bank in BANKS]
            planned.append(base | {"kind": BOUND, "counts": settings["counts"]})
            planned += [
                base | {"kind": GRADIENT, "optimizer": optimizer, "count": count, "rate": rate} | dict(settings["training"])
                for optimizer in settings["optimizers"]
                for rate in settings["rates"]
                for count in settings["trained_counts"]
                if i < settings["trained_seeds"]
            ]
    return planned


def run(trial: Trial) -> tuple[Result, Measured]:
    """Errors of one kind."""
    if trial["kind"] == GRADIENT:
        return _trained(trial)
    return (_closed_form(trial) if trial["kind"] == CLOSED else _beside_bound(trial)), {}


def dense_bank(length: int, kind: str) -> Any:
    """The leading eigenpairs of the Hankel matrix by a dense solver in "float64" or "float32", noise below its rounding.

    Only those above zero can be used; the solver's largest ones always are.
    """
    from torchstu.spectral.filters import FilterBank

    lags = np.add.outer(np.arange(1, length + 1), np.arange(1, length + 1)).astype(np.float64)
    values, vectors = np.linalg.eigh((2 / (lags**3 - lags)).astype(kind))
    values, vectors = values[::-1].astype(np.float64), vectors[:, ::-1].astype(np.float64)
    count = int((values > 0).sum())
    return FilterBank(values[:count], vectors[:, :count])


def _bank(trial: Trial, count: int, whole: Any) -> Any:
    """K filters: a name where they are this library's."""
    from torchstu.spectral.filters import FilterBank

    return (
        "positive" if whole is None else FilterBank(whole.eigenvalues[:count], np.ascontiguousarray(whole.filters[:, :count]))
    )


def _closed_form(trial: Trial) -> Result:
    """Relative errors on fresh sequences of fits in float64, and of the same weights run in float32, for each K."""
    import copy

    import torch

    from torchstu.experiments.reproduce.systems import draw_system, sequences
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.diagnostics import relative_error

    lds, generator = draw_system(trial["system"], trial["seed"])
    data = sequences(lds, trial["fitted"], trial["length"], generator)
    u, y = sequences(lds, trial["validation"], trial["length"], generator)
    whole = None if trial["bank"] == "quadrature" else dense_bank(trial["length"], trial["bank"].split()[1])
    errors, singles = [], []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # filters beyond what float64 supports are the question here
        for count in trial["counts"]:
            fit = SpectralRegressor(count, prior=_bank(trial, count, whole), banks="both", tail_penalty=0.0).fit(*data)
            errors.append(relative_error(fit.predict(u), y))
            single = copy.deepcopy(fit.layer).to(torch.float32)
            singles.append(relative_error(single(u.float())[0], y))
    return {"errors": errors, "float32 errors": singles}


def _beside_bound(trial: Trial) -> Result:
    """The largest error of weights written down from the system, of fitted ones, and the bounds, for inputs with ‖u_t‖ = "
    "1."""
    import torch

    from torchstu.convert.system_to_stu import system_to_stu
    from torchstu.experiments.reproduce.systems import draw_system
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.diagnostics import relative_error
    from torchstu.spectral.bounds import error_bound
    from torchstu.spectral.filters import filter_bank

    lds, generator = draw_system(trial["system"], trial["seed"])

    def bounded(count: int) -> tuple[Any, Any]:
        u = torch.randn(count, trial["length"], lds.d_in, generator=generator, dtype=torch.float64)
        u /= u.norm(dim=2, keepdim=True)
        return u, lds.simulate(u)

    data, (u, y) = bounded(trial["fitted"]), bounded(trial["validation"])
    gain = float(torch.linalg.matrix_norm(lds.C, 2) * torch.linalg.matrix_norm(lds.B, 2))
    found: dict[str, list[float]] = {name: [] for name in ("written", "fitted", "relative", "computed", "spectral", "theorem")}
    with torch.no_grad():
        for count in trial["counts"]:
            written = system_to_stu(lds, trial["length"], count)(u)[0]
            fitted = SpectralRegressor(count, tail_penalty=0.0).fit(*data).predict(u)
            bound = error_bound(trial["length"], count, gain)
            found["written"].append(float((written - y).norm(dim=2).max()))
            found["fitted"].append(float((fitted - y).norm(dim=2).max()))
            found["relative"].append(relative_error(written, y))
            for name in ("computed", "spectral", "theorem"):
                found[name].append(getattr(bound, name))
    sigma = filter_bank(trial["length"], max(trial["counts"]) + 1).eigenvalues
    return {**found, "rounding": bound.rounding, "next eigenvalues": [float(sigma[count]) for count in trial["counts"]]}


def _trained(trial: Trial) -> tuple[Result, Measured]:
    """The error at the end of gradient descent in float32."""
    from torchstu.experiments.reproduce.systems import train

    setting = trial | {"mixer": "STU", "size": trial["count"], "options": {}, "decay": 0.0}
    history, _ = train(setting)
    return {"error": history.errors[-1], "diverged": history.diverged}, {"seconds": history.seconds}


EXPERIMENT = Experiment(
    name="paper-filters",
    question="How fast does the error fall with the number of filters, is it under the bound, and why does it flatten?",
    trials=trials,
    run=run,
    sections=sections,
)
