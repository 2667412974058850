"""torchstu: spectral state space models on PyTorch.

Public names are re-exported here, each loaded when it is first used, so that commands answer before torch is imported.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchstu.convert.onnx import export_onnx as export_onnx
    from torchstu.convert.stu_to_system import to_lds as to_lds
    from torchstu.convert.system_to_stu import system_to_stu as system_to_stu
    from torchstu.layers.attention import Attention as Attention
    from torchstu.layers.base import Mixer as Mixer
    from torchstu.layers.dss import DSS as DSS
    from torchstu.layers.gru import GRU as GRU
    from torchstu.layers.lru import LRU as LRU
    from torchstu.layers.s4 import S4 as S4
    from torchstu.layers.s4d import S4D as S4D
    from torchstu.layers.s5 import S5 as S5
    from torchstu.layers.sequence_parallel import sequence_parallel as sequence_parallel
    from torchstu.layers.stu import ARSTU as ARSTU
    from torchstu.layers.stu import STU as STU
    from torchstu.layers.tensordot import TensordotSTU as TensordotSTU
    from torchstu.learn.closed_form import SpectralRegressor as SpectralRegressor
    from torchstu.learn.diagnostics import feedback_radius as feedback_radius
    from torchstu.learn.diagnostics import impulse_response as impulse_response
    from torchstu.learn.diagnostics import relative_error as relative_error
    from torchstu.learn.diagnostics import tail_energy as tail_energy
    from torchstu.learn.gradient import fit_gradient as fit_gradient
    from torchstu.learn.identification import identify as identify
    from torchstu.learn.online import OnlineSpectralFilter as OnlineSpectralFilter
    from torchstu.learn.optimizers import SpectralAdamW as SpectralAdamW
    from torchstu.learn.output_error import refine as refine
    from torchstu.learn.prior_suggestion import suggest_prior as suggest_prior
    from torchstu.models.ssm import SpectralSSM as SpectralSSM
    from torchstu.models.store import load_model as load_model
    from torchstu.models.store import save_model as save_model
    from torchstu.spectral.filters import FilterBank as FilterBank
    from torchstu.spectral.filters import filter_bank as filter_bank
    from torchstu.spectral.priors import Prior as Prior
    from torchstu.spectral.priors import hankel_matrix as hankel_matrix
    from torchstu.spectral.sector import Harmonics as Harmonics
    from torchstu.spectral.sector import Sector as Sector
    from torchstu.systems.lds import LDS as LDS
    from torchstu.systems.random import Rotations as Rotations
    from torchstu.systems.random import Signs as Signs
    from torchstu.systems.random import Uniform as Uniform
    from torchstu.systems.random import random_lds as random_lds

_HOME = {
    "ARSTU": "torchstu.layers.stu",
    "Attention": "torchstu.layers.attention",
    "DSS": "torchstu.layers.dss",
    "FilterBank": "torchstu.spectral.filters",
    "GRU": "torchstu.layers.gru",
    "Harmonics": "torchstu.spectral.sector",
    "LDS": "torchstu.systems.lds",
    "LRU": "torchstu.layers.lru",
    "Mixer": "torchstu.layers.base",
    "OnlineSpectralFilter": "torchstu.learn.online",
    "Prior": "torchstu.spectral.priors",
    "Rotations": "torchstu.systems.random",
    "S4": "torchstu.layers.s4",
    "S4D": "torchstu.layers.s4d",
    "S5": "torchstu.layers.s5",
    "STU": "torchstu.layers.stu",
    "Sector": "torchstu.spectral.sector",
    "Signs": "torchstu.systems.random",
    "SpectralAdamW": "torchstu.learn.optimizers",
    "SpectralRegressor": "torchstu.learn.closed_form",
    "SpectralSSM": "torchstu.models.ssm",
    "TensordotSTU": "torchstu.layers.tensordot",
    "Uniform": "torchstu.systems.random",
    "export_onnx": "torchstu.convert.onnx",
    "feedback_radius": "torchstu.learn.diagnostics",
    "filter_bank": "torchstu.spectral.filters",
    "fit_gradient": "torchstu.learn.gradient",
    "hankel_matrix": "torchstu.spectral.priors",
    "identify": "torchstu.learn.identification",
    "impulse_response": "torchstu.learn.diagnostics",
    "load_model": "torchstu.models.store",
    "random_lds": "torchstu.systems.random",
    "refine": "torchstu.learn.output_error",
    "relative_error": "torchstu.learn.diagnostics",
    "save_model": "torchstu.models.store",
    "sequence_parallel": "torchstu.layers.sequence_parallel",
    "suggest_prior": "torchstu.learn.prior_suggestion",
    "system_to_stu": "torchstu.convert.system_to_stu",
    "tail_energy": "torchstu.learn.diagnostics",
    "to_lds": "torchstu.convert.stu_to_system",
}
_MODULES = {"bounds": "torchstu.spectral.bounds", "testing": "torchstu.testing"}
__all__ = [*_HOME]
__version__ = version("torchstu")


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOME:
        raise AttributeError(f"module 'torchstu' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
