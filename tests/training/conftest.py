import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for toy_runs.py, which is also run as a command

import toy_runs  # noqa: F401  (registers the data set "toy")
