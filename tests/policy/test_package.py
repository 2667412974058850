"""Rules of the package, held by tests: layers of imports, public names, documentation, light imports."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import torchstu

ROOT = Path(torchstu.__file__).parent
ORDER = ["spectral", "ops", "systems", "layers", "convert", "models", "data", "learn", "forecast", "report", "training",
         "experiments", "integrations", "cli"]  # fmt: skip
FILES = sorted(path for path in ROOT.rglob("*.py"))


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", [f for f in FILES if f.parent != ROOT], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    own = ORDER.index(path.relative_to(ROOT).parts[0])
    for module in imported_modules(path):
        if module.startswith("torchstu."):
            room = module.split(".")[1]
            if room in ORDER:
                assert ORDER.index(room) <= own, f"{path.name} imports {module}, which lies above it"


def test_public_names_are_one_list():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    declared = {alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                for alias in node.names if node.module and node.module.startswith("torchstu.")}  # fmt: skip
    assert declared == torchstu._HOME
    assert list(torchstu._HOME) == sorted(torchstu._HOME)
    assert len(torchstu.__all__) <= 40
    for name in torchstu.__all__:
        assert getattr(torchstu, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = torchstu.nothing


@pytest.mark.parametrize("name", torchstu.__all__)
def test_public_names_are_documented(name):
    thing = getattr(torchstu, name)
    text = inspect.getdoc(thing)
    assert text
    assert len(text) > 40
    callables = (
        [thing] if inspect.isfunction(thing) else [f for n, f in vars(thing).items() if inspect.isfunction(f) and n[0] != "_"]
    )
    for function in callables:
        own = inspect.getdoc(function)
        assert own, f"{name}.{function.__name__} has no docstring"
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 310, "is it one thing?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.end_lineno - node.body[0].lineno + 1
            assert body <= 70, f"{node.name} has {body} lines"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_import_loads_nothing_heavy():
    heavy = ["torch", "matplotlib", "pandas", "pytorch_lightning", "pyarrow", "scipy", "jinja2",
             "onnx", "onnxruntime", "onnxscript", "control", "sklearn", "yaml", "optuna",
             "transformers"]  # fmt: skip
    result = run(f"import sys, torchstu, torchstu.cli.main; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_the_core_needs_only_torch_numpy_and_safetensors():
    """Every public name works with the extras out of reach; what needs one says which."""
    code = """
import sys
extras = "matplotlib pandas pyarrow pytorch_lightning scipy tqdm onnx onnxruntime onnxscript control sklearn yaml optuna"
extras += " transformers"
for name in extras.split():
    sys.modules[name] = None
import torch, torchstu
for name in torchstu.__all__:
    getattr(torchstu, name)
u = torch.randn(2, 40, 1)
print(torchstu.SpectralRegressor(8).fit(u, u).residual < 1e-12)
try:
    torchstu.fit_gradient(torchstu.LRU(1, 1), u, u, steps=1)
except ImportError as error:
    print(error)
"""
    result = run(code)
    assert result.stdout.splitlines() == ["True", "pytorch_lightning is not installed: pip install 'torchstu[train]'"], (
        result.stderr
    )
