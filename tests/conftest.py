"""Before any test: one thread. The models are tiny, and threads that wait for one another cost more than they give."""

import logging
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def root_logger():
    """Inspect sets up the root logger for its process, which all tests share."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(False)
