"""What tests of several folders have in common."""

import pytest

# Those with assertions
MODULES = ("models", "priorities", "samplers", "states", "stock", "value_losses", "windows")
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in MODULES))
