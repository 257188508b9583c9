"""REDQSAC's policies without an algorithm, and inputs for them."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ext.redq_sac.policies import REDQSACPolicy

N, B, K, A = 5, 7, 3, 2
OBSERVATIONS = spaces.Box(-1, 1, (4,), dtype=np.float32)
IMAGES = spaces.Box(0, 255, (2, 36, 36), dtype=np.uint8)
MIXED = spaces.Dict({"joints": OBSERVATIONS, "goal": spaces.Box(-1, 1, (6,), dtype=np.float32)})
ACTIONS = spaces.Box(-1, 1, (A,), dtype=np.float32)


def make_policy(cls: type[REDQSACPolicy] = REDQSACPolicy, space: spaces.Space = OBSERVATIONS, **kwargs: Any) -> Any:
    th.manual_seed(0)
    kwargs = {"net_arch": [8, 6], "n_critics": N, **kwargs}
    return cls(space, ACTIONS, lambda _: 1e-3, **kwargs)


def random_obs(space: spaces.Space = OBSERVATIONS, batch_size: int = B) -> Any:
    generator = th.Generator().manual_seed(1)
    if isinstance(space, spaces.Dict):
        return {key: random_obs(part, batch_size) for key, part in space.spaces.items()}
    if space is IMAGES:
        return th.randint(0, 256, (batch_size, *IMAGES.shape), dtype=th.uint8, generator=generator)
    return th.rand(batch_size, *space.shape, generator=generator) * 2 - 1


def random_actions(*shape: int) -> th.Tensor:
    return th.rand(*shape, A, generator=th.Generator().manual_seed(2)) * 2 - 1
