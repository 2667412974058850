"""The methods compared: a new one is a line here and a function in `ours.py` or `peers.py`. Standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    name: str
    """The key in `ours.OURS` or `peers.PEERS`."""
    python: str
    """Whose interpreter: "torchstu" or "peers"."""
    structured: bool = False
    """A state-space method: subspace, output error, or trained by gradient."""


METHODS = [
    Method("torchstu", "torchstu"),
    Method("torchstu regressor", "torchstu"),
    Method("torchstu learned AR", "torchstu"),
    Method("gradient LDS", "torchstu", structured=True),
    Method("nfoursid", "peers", structured=True),
    Method("sippy N4SID", "peers", structured=True),
    Method("sippy CVA", "peers", structured=True),
    Method("llsi N4SID", "peers", structured=True),
    Method("llsi PO-MOESP", "peers", structured=True),
    Method("llsi PEM", "peers", structured=True),
    Method("llsi ARX", "peers"),
    Method("SysIdentPy", "peers"),
    Method("statsmodels", "peers"),
]
ROLLOUT, ONE_STEP = "torchstu", "torchstu learned AR"
"""Which of ours answers for the roll-out and which for one step ahead."""
QUICK = ["torchstu", "torchstu learned AR", "gradient LDS", "sippy N4SID", "llsi PO-MOESP", "llsi ARX", "statsmodels"]
