"""Settings for all tests, and the fixtures that tests of several folders use."""

import os

# The tests run in as many processes as there are cores. Before torch is imported, and for what the tests start, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

from tests.support.compilers import compiled_with_gradients, fresh_compiler, no_excuses, traced_only
from tests.support.models import saved

__all__ = ["compiled_with_gradients", "fresh_compiler", "no_excuses", "saved", "traced_only"]

# How long an example takes says more about the machine than about the code
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
