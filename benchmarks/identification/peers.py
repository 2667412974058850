"""The peers, each used as its own documentation does: ``fit(U, Y) -> Model`` on a recording (L, D). Runs in the peers' Python.

Packages with an order selection of their own use it; otherwise `validated` chooses on the last quarter of the recording.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from identification.models import Arx, Model, StateSpace, lagged, validated

ORDERS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40)
RANKS = (2, 4, 6, 8, 12, 16, 24, 32)


def nfoursid(U: np.ndarray, Y: np.ndarray) -> Model:
    """`NFourSID`: block rows in {10, 20, 40} and rank in `RANKS` (up to the block rows) by validation.

    Ranks of one number of block rows share `subspace_identification`. One step ahead: the steady gain of its noise covariance.
    """
    import pandas
    from nfoursid.nfoursid import NFourSID

    shared: dict[tuple[int, int], Any] = {}

    def fit(u: np.ndarray, y: np.ndarray, candidate: tuple[int, int]) -> Model:
        rows, rank = candidate
        key = rows, len(u)
        if key not in shared:
            frame = pandas.DataFrame(np.hstack([u, y])).set_axis([f"u{i}" for i in range(u.shape[1])] +
                                                                 [f"y{i}" for i in range(y.shape[1])], axis=1)  # fmt: skip
            names = list(frame.columns)
            shared.clear()
            shared[key] = NFourSID(
                frame, output_columns=names[u.shape[1] :], input_columns=names[: u.shape[1]], num_block_rows=rows
            )
            shared[key].subspace_identification()
        space, covariance = shared[key].system_identification(rank=rank)
        outputs = y.shape[1]
        Q, R, S = covariance[outputs:, outputs:], covariance[:outputs, :outputs], covariance[outputs:, :outputs]
        gain = steady_gain(space.a, space.c, Q, R, S)
        return StateSpace(space.a, space.b, space.c, space.d, gain, f"{rows} block rows, order {rank}")

    candidates = [(rows, rank) for rows in (10, 20, 40) if 8 * rows * Y.shape[1] < len(U) for rank in RANKS if rank <= rows]
    return validated(fit, candidates, U, Y)


def steady_gain(A: Any, C: Any, Q: Any, R: Any, S: Any) -> np.ndarray | None:
    """The stationary Kalman gain by its Riccati equation; None where that has no solution."""
    from scipy.linalg import solve_discrete_are

    try:
        P = solve_discrete_are(A.T, C.T, Q, R, s=S)
        return np.linalg.solve(C @ P @ C.T + R, (A @ P @ C.T + S).T).T
    except (np.linalg.LinAlgError, ValueError):
        return None


def sippy(method: str) -> Callable[[np.ndarray, np.ndarray], Model]:
    """`system_identification` with its own order selection: AIC over 1..horizon; horizon in {10, 20, 40} by validation."""

    def fit(u: np.ndarray, y: np.ndarray, horizon: int) -> Model:
        from sippy_unipi import system_identification

        orders = [1, horizon]
        with contextlib.redirect_stdout(io.StringIO()):
            found = system_identification(
                y.T, u.T, method, IC="AIC", SS_f=horizon, SS_p=horizon, SS_orders=orders, SS_D_required=True
            )
        return StateSpace(found.A, found.B, found.C, found.D, found.K, f"horizon {horizon}, order {len(found.A)} by AIC")

    return lambda U, Y: validated(fit, [h for h in (10, 20, 40) if 8 * h * Y.shape[1] < len(U)], U, Y)


def llsi(method: str, orders: tuple[int, ...], settings: dict[str, Any] | None = None) -> Callable[..., Model]:
    """`sysid` by one of its state-space methods; order by validation. It gives no noise model."""

    def fit(u: np.ndarray, y: np.ndarray, order: int) -> Model:
        from llsi import SysIdData, sysid

        series = {f"u{i}": u[:, i] for i in range(u.shape[1])} | {f"y{i}": y[:, i] for i in range(y.shape[1])}
        outputs, inputs = ([name for name in series if name[0] == kind] for kind in "yu")
        found = sysid(SysIdData(Ts=1.0, **series), outputs, inputs, (order,), method=method, settings=dict(settings or {}))
        return StateSpace(found.A, found.B, found.C, found.D, None, f"order {order}")

    return lambda U, Y: validated(fit, orders, U, Y)


def single(fit: Callable[[np.ndarray, np.ndarray], Model]) -> Callable[[np.ndarray, np.ndarray], Model]:
    """A method that its package has for one input and one output only."""

    def checked(U: np.ndarray, Y: np.ndarray) -> Model:
        if U.shape[1] > 1 or Y.shape[1] > 1:
            raise NotImplementedError("one input and one output only")
        return fit(U, Y)

    return checked


def llsi_pem(U: np.ndarray, Y: np.ndarray) -> Model:
    """`sysid(method="pem")`, output error by Powell's method from PO-MOESP, orders 1, 2 and 4: weights are order² and more."""
    return llsi("pem", (1, 2, 4), {"init": "po-moesp"})(U, Y)


def llsi_arx(U: np.ndarray, Y: np.ndarray) -> Model:
    """`sysid(method="arx")` for one input and output; equally many lags of both, by validation."""

    def fit(u: np.ndarray, y: np.ndarray, lags: int) -> Model:
        from llsi import SysIdData, sysid

        found = sysid(SysIdData(Ts=1.0, u=u[:, 0], y=y[:, 0]), "y", "u", (lags, lags + 1, 0), method="arx")
        a, b = np.ravel(found.a), np.ravel(found.b)
        return Arx(-a[1:, None, None], b[:, None, None], f"{lags} lags")

    return validated(fit, [p for p in (1, 2, 4, 8, 16, 32, 64, 128) if 8 * p <= len(U)], U, Y)


def sysidentpy(U: np.ndarray, Y: np.ndarray) -> Model:
    """`FROLS` with a linear polynomial basis and least squares: terms chosen by its AIC among up to 20 lags.

    Its inputs start at lag 1, so u_{t+1} is given as the input of step t; outputs are fitted one by one, from all inputs.
    """
    from sysidentpy.basis_function import Polynomial
    from sysidentpy.model_structure_selection import FROLS
    from sysidentpy.parameter_estimation import LeastSquares

    lags, (length, inputs), outputs = 20, U.shape, Y.shape[1]
    ahead = np.vstack([U[1:], np.zeros((1, inputs))])[: length - 1]
    A, B, terms = np.zeros((lags, outputs, outputs)), np.zeros((lags, outputs, inputs)), []
    for i in range(outputs):
        xlag: Any = list(range(1, lags + 1))
        model = FROLS(
            order_selection=True, n_info_values=lags * (1 + inputs), ylag=lags, xlag=xlag if inputs == 1 else [xlag] * inputs,
            info_criteria="aic", estimator=LeastSquares(), basis_function=Polynomial(degree=1),
        )  # fmt: skip
        model.fit(X=ahead, y=Y[: length - 1, i : i + 1])
        terms.append(len(model.final_model))
        for code, weight in zip(np.ravel(model.final_model), np.ravel(model.theta), strict=True):
            kind, lag = divmod(int(code), 1000)
            if kind == 1:
                A[lag - 1, i, i] = weight
            elif kind >= 2:
                B[lag - 1, i, kind - 2] = weight
    return Arx(A, B, f"{'+'.join(map(str, terms))} terms by AIC")


LAGS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)


def statsmodels(U: np.ndarray, Y: np.ndarray) -> Model:
    """`AutoReg` with lagged inputs for one output, `VAR` for more; equally many lags of both, by the package's AIC."""
    from statsmodels.tsa.api import VAR
    from statsmodels.tsa.ar_model import AutoReg

    outputs, inputs = Y.shape[1], U.shape[1]
    most = max(p for p in LAGS if 8 * p * (outputs + inputs) <= 2 * len(U))

    def fit(lags: int, skip: int) -> Any:
        exogenous = lagged(U, lags + 1)
        if outputs == 1:
            return AutoReg(Y[:, 0], lags, trend="n", exog=exogenous, hold_back=skip).fit()
        return VAR(Y[skip - lags :], exog=exogenous[skip - lags :]).fit(lags, trend="n")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = {lags: fit(lags, most).aic for lags in LAGS if lags <= most}
        lags = min((p for p in scores if np.isfinite(scores[p])), key=scores.__getitem__)
        weights = np.asarray(fit(lags, lags).params)
    if outputs == 1:
        A, B = weights[:lags, None, None], weights[lags:, None, None]
    else:  # rows: inputs, then outputs lag by lag; columns: equations
        width = inputs * (lags + 1)
        B = weights[:width].reshape(lags + 1, inputs, outputs).transpose(0, 2, 1)
        A = weights[width:].reshape(lags, outputs, outputs).transpose(0, 2, 1)
    return Arx(A, B, f"{lags} lags by AIC")


PEERS: dict[str, Callable[[np.ndarray, np.ndarray], Model]] = {
    "nfoursid": nfoursid,
    "sippy N4SID": sippy("N4SID"),
    "sippy CVA": sippy("CVA"),
    "llsi N4SID": single(llsi("n4sid", ORDERS)),
    "llsi PO-MOESP": llsi("po-moesp", ORDERS),
    "llsi PEM": single(llsi_pem),
    "llsi ARX": single(llsi_arx),
    "SysIdentPy": sysidentpy,
    "statsmodels": statsmodels,
}
