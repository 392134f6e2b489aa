"""What the tests of training share: prepared pairs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Files of two prepared training pairs."""
    from training_pairs import save_pairs

    return save_pairs(tmp_path_factory.mktemp("pairs"))
