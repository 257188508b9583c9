"""Settings for all tests."""

import os

# The tests run in as many processes as there are cores. Before torch is imported, and for what the tests start, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# How long an example takes says more about the machine than about the code
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
