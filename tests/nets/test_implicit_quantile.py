"""The embedding of quantile levels, against loops. Every dimension of a tensor is different."""

import math

import numpy as np
import torch as th

from sb3_ext.nets import CosineEmbedding

B, T, N_COSINES = 5, 7, 9


def test_no_feature_is_switched_off_at_the_start() -> None:
    factors = CosineEmbedding(64, n_features=500)(th.rand(40))
    assert 0.9 < factors.mean() < 1.1
    assert (factors > 0).float().mean() > 0.97


def test_cosine_embedding() -> None:
    th.manual_seed(0)
    embedding, taus = CosineEmbedding(N_COSINES, n_features=6), th.rand(B, T)
    weight, bias = embedding.linear.weight.tolist(), embedding.linear.bias.tolist()
    actual = embedding(taus)
    assert actual.shape == (B, T, 6)
    expected = np.empty((B, T, 6))
    for b in range(B):
        for t in range(T):
            # From 1: the cosine of 0 times anything is constant
            cosines = [math.cos(math.pi * i * taus[b, t].item()) for i in range(1, N_COSINES + 1)]
            for feature in range(6):
                total = sum(w * c for w, c in zip(weight[feature], cosines, strict=True)) + bias[feature]
                expected[b, t, feature] = max(total, 0.0)
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=2e-6)
