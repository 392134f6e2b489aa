"""What the tests of files share: an oblique scan, and a field on its grid."""

import sys
from pathlib import Path

import numpy as np
import pytest
from L2ORegistrationLib.core.geometry import DisplacementField, Volume

sys.path.insert(0, str(Path(__file__).parent))
from oblique import OBLIQUE  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def field(rng):
    return DisplacementField(
        rng.normal(scale=5, size=(*OBLIQUE.shape, 3)).astype(np.float32), OBLIQUE
    )


@pytest.fixture
def ct(rng):
    return Volume(rng.integers(-1000, 400, OBLIQUE.shape).astype(np.int16), OBLIQUE)
