import gc

import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick_collections():
    """Every Trainer collects garbage; what the imports have left is most of what it would look through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
