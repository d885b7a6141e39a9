# SPDX-License-Identifier: Apache-2.0
"""python -m tests.faults: see matrix."""

import sys

from tests.faults import matrix

if __name__ == "__main__":
    sys.exit(matrix.main())
