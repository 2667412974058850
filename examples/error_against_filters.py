"""Draw the README's picture: error of the closed form against the number of filters.

python examples/error_against_filters.py [FILE.svg]
"""

import sys
from pathlib import Path

from torchstu.experiments.demo import filters_section
from torchstu.report.figures import standalone
from torchstu.report.page import write_text

path = Path(sys.argv[1] if len(sys.argv) > 1 else "error-against-filters.svg")
write_text(path, standalone(filters_section("", False).figure))
print(path)
