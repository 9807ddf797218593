"""Before any test: one thread. The models are tiny, and threads that wait for one another cost more than they give."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
