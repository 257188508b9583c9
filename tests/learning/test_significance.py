"""The statistical test itself."""

import numpy as np

from tests.support.significance import N_EPISODES, improvement_p_value


def test_the_p_value_is_small_only_as_often_as_it_says() -> None:
    """Without learning, p < 0.05 in about 5 % of the draws."""
    rng = np.random.default_rng(1)
    p_values = [improvement_p_value(*rng.normal(-1200, 200, (2, N_EPISODES)), n_permutations=500) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
