"""Tests of this folder may use each other's small pairs and results."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
