import os
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores
os.environ["TORCHSTU_CACHE"] = tempfile.mkdtemp(prefix="torchstu-test-cache-")

import pytest
import torch


@pytest.fixture(autouse=True)
def _strict_environment():
    """NaN-filled empty memory, so that nothing unwritten passes for a number; a fixed seed."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    if "torch._dynamo" in sys.modules:  # layers share `Mixer.forward`, and one function may be compiled only so often
        torch._dynamo.reset()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def pytest_report_header():
    import torchstu

    return f"torchstu {torchstu.__version__} from {os.path.dirname(torchstu.__file__)}, {sys.version.split()[0]}"
