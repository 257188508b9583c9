"""Normalization of activations and weights, against loops over Python floats and torch's own layers."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from sb3_ext.functional.normalization import (
    RENORM_MAX_SCALE,
    RENORM_MAX_SHIFT,
    batch_moments,
    project_columns,
    project_features,
    renormalized,
    rms_norm,
    scale_and_shift,
    shifted_batch_moments,
    sum_of,
)

N, D = 3, 4
EPS = 1e-5

Moments = Callable[[list[th.Tensor]], tuple[th.Tensor, th.Tensor]]
BOTH = pytest.mark.parametrize("moments", [batch_moments, shifted_batch_moments])


def randn(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> th.Tensor:
    return low + (high - low) * th.rand(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def oracle_moments(column: list[float]) -> tuple[float, float]:
    mean = math.fsum(column) / len(column)
    return mean, math.fsum((x - mean) ** 2 for x in column) / len(column)


@BOTH
@pytest.mark.parametrize("sizes", [[6], [5, 7], [4, 4], [1, 2, 6], [1]])
@pytest.mark.parametrize("leading", [(), (N,), (2, N)])
def test_moments_against_loops(moments: Moments, sizes: list[int], leading: tuple[int, ...]) -> None:
    groups = [3 + i + randn(*leading, size, D, seed=i) for i, size in enumerate(sizes)]
    mean, variance = moments(groups)
    assert mean.shape == variance.shape == (*leading, 1, D)
    for place in itertools.product(*map(range, leading)):
        for d in range(D):
            column = [row[d].item() for group in groups for row in group[place]]
            expected_mean, expected_variance = oracle_moments(column)
            assert mean[(*place, 0, d)].item() == pytest.approx(expected_mean, rel=1e-12)
            assert variance[(*place, 0, d)].item() == pytest.approx(expected_variance, rel=1e-10, abs=1e-12)


@BOTH
def test_moments_by_hand(moments: Moments) -> None:
    # 1, 2, 6 have mean 3 and squares of the distances 4, 1, 9; 0, 0, 3 have mean 1 and 1, 1, 4
    mean, variance = moments([th.tensor([[1.0, 0.0]]), th.tensor([[2.0, 0.0], [6.0, 3.0]])])
    th.testing.assert_close(mean, th.tensor([[3.0, 1.0]]))
    th.testing.assert_close(variance, th.tensor([[14 / 3, 2.0]]))


@BOTH
def test_moments_are_differentiable_in_every_group(moments: Moments) -> None:
    groups = [randn(N, 2, D).requires_grad_(), randn(N, 3, D, seed=1).requires_grad_()]
    assert gradcheck(lambda *g: moments(list(g)), groups)


@pytest.mark.parametrize("first_row", [1e4, 1e4 - 1, 1e4 + 3])
def test_shifted_moments_are_exact_far_from_zero(first_row: float) -> None:
    x = 1e4 + uniform(-1, 1, 256, D).float()
    x[0] = first_row
    groups = [x[:128], x[128:]]
    mean, variance = shifted_batch_moments(groups)
    for d in range(D):
        expected_mean, expected_variance = oracle_moments(x[:, d].double().tolist())
        assert mean[0, d].item() == pytest.approx(expected_mean, rel=2e-7)
        assert variance[0, d].item() == pytest.approx(expected_variance, rel=1e-4)


@pytest.mark.parametrize("value", [0.1, 12345.678, 1e6 + 0.3])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 100, 256])
@BOTH
def test_constant_features_have_no_negative_variance(moments: Moments, value: float, n_rows: int) -> None:
    x = th.full((n_rows, D), value)
    mean, variance = moments([x, x[:1]])
    assert (variance >= 0).all()
    a, b = scale_and_shift(mean, variance, th.ones(D), th.zeros(D), EPS)
    assert a.isfinite().all() and b.isfinite().all()


def test_constant_features_are_exact_when_shifted() -> None:
    x = th.full((100, D), 12345.678)
    mean, variance = shifted_batch_moments([x, x])
    assert (variance == 0).all()
    assert th.equal(mean, x[:1])


def test_sum_of_tensors() -> None:
    assert sum_of([th.tensor([1, 2]), th.tensor([10, 20]), th.tensor([100, 200])]).tolist() == [111, 222]
    single = th.tensor([1.5])
    assert sum_of([single]).tolist() == [1.5]


def test_scale_and_shift_against_loops() -> None:
    x, mean, variance = randn(N, 5, D), randn(N, 1, D, seed=1), uniform(0, 2, N, 1, D)
    weight, bias = randn(N, 1, D, seed=2), randn(N, 1, D, seed=3)
    a, b = scale_and_shift(mean, variance, weight, bias, 0.1)
    result = a * x + b
    for n, row, d in itertools.product(range(N), range(5), range(D)):
        centered = x[n, row, d].item() - mean[n, 0, d].item()
        expected = weight[n, 0, d].item() * centered / math.sqrt(variance[n, 0, d].item() + 0.1) + bias[n, 0, d].item()
        assert result[n, row, d].item() == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_scale_and_shift_by_hand() -> None:
    # sqrt(3 + 1) = 2: 6 / 2 = 3 and 5 - 3 * 10 = -25
    numbers = [th.tensor([number]) for number in (10.0, 3.0, 6.0, 5.0)]
    a, b = scale_and_shift(*numbers, eps=1.0)
    assert (a.item(), b.item()) == (3.0, -25.0)


def test_moments_and_scale_are_batch_normalization() -> None:
    x, layer = 5 + randn(9, D), nn.BatchNorm1d(D, eps=1e-3).double()
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.uniform_(layer.bias)
    for moments in (batch_moments, shifted_batch_moments):
        a, b = scale_and_shift(*moments([x[:4], x[4:]]), layer.weight, layer.bias, layer.eps)
        th.testing.assert_close(a * x + b, layer.train()(x))


def renormalize(x: th.Tensor, running_mean: th.Tensor, running_variance: th.Tensor, eps: float = EPS) -> th.Tensor:
    mean, variance = renormalized(*batch_moments([x]), running_mean, running_variance, eps)
    a, b = scale_and_shift(mean, variance, th.ones_like(mean), th.zeros_like(mean), eps)
    return a * x + b


def oracle_renormalization(column: list[float], running_mean: float, running_variance: float) -> list[float]:
    mean, variance = oracle_moments(column)
    std, running_std = math.sqrt(variance + EPS), math.sqrt(running_variance + EPS)
    r = min(max(std / running_std, 1 / 3), 3)
    d = min(max((mean - running_mean) / running_std, -5), 5)
    return [(x - mean) / std * r + d for x in column]


def test_limits_are_those_of_the_paper() -> None:
    assert (RENORM_MAX_SCALE, RENORM_MAX_SHIFT) == (3.0, 5.0)


@pytest.mark.parametrize("running_variance", [1e-8, 0.01, 0.5, 1.0, 2.0, 30.0, 1e4])
@pytest.mark.parametrize("offset", [-100.0, -3.0, 0.0, 0.5, 3.0, 100.0])
def test_renormalization_against_loops(running_variance: float, offset: float) -> None:
    x = offset + randn(N, 6, D)
    running_mean = randn(N, 1, D, seed=1)
    variances = running_variance * uniform(0.5, 2, N, 1, D)
    result = renormalize(x, running_mean, variances)
    for n, d in itertools.product(range(N), range(D)):
        expected = oracle_renormalization(x[n, :, d].tolist(), running_mean[n, 0, d].item(), variances[n, 0, d].item())
        assert result[n, :, d].tolist() == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    ("running_mean", "running_std", "expected"),
    [
        # The batch -2, 2 has mean 0 and standard deviation 2
        (0.0, 2.0, [-1.0, 1.0]),
        # Within the limits the running statistics normalize: (-2 - 1) / 1 and (2 - 1) / 1
        (1.0, 1.0, [-3.0, 1.0]),
        (-1.0, 4.0, [-0.25, 0.75]),
        # r = 2 / 0.5 becomes 3, d = 0
        (0.0, 0.5, [-3.0, 3.0]),
        # r = 2 / 8 becomes 1/3
        (0.0, 8.0, [-1 / 3, 1 / 3]),
        # d = 12 / 2 becomes 5, and -12 / 2 becomes -5; r = 1
        (-12.0, 2.0, [4.0, 6.0]),
        (12.0, 2.0, [-6.0, -4.0]),
        # Both
        (100.0, 0.1, [-8.0, -2.0]),
    ],
)
def test_renormalization_by_hand(running_mean: float, running_std: float, expected: list[float]) -> None:
    x = th.tensor([[-2.0], [2.0]], dtype=th.float64)
    running = th.tensor([[running_mean]], dtype=th.float64), th.tensor([[running_std**2]], dtype=th.float64)
    result = renormalize(x, *running, eps=1e-12)
    assert result.flatten().tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("running_variance", [0.01, 1.0, 100.0])
def test_gradient_of_renormalization_leaves_the_corrections_out(running_variance: float) -> None:
    x = (1 + randn(N, 6, D)).requires_grad_()
    running_mean = randn(N, 1, D, seed=1)
    running_variances = running_variance * uniform(0.5, 2, N, 1, D)
    cotangent = randn(N, 6, D, seed=2)
    (gradient,) = th.autograd.grad((renormalize(x, running_mean, running_variances) * cotangent).sum(), x)

    # With r a constant and d without a part in it, the gradient is r times that of plain batch normalization
    std = (x.var(dim=1, unbiased=False, keepdim=True) + EPS).sqrt()
    plain = (x - x.mean(dim=1, keepdim=True)) / std
    r = (std / (running_variances + EPS).sqrt()).clamp(1 / 3, 3).detach()
    (expected,) = th.autograd.grad((plain * r * cotangent).sum(), x)
    th.testing.assert_close(gradient, expected)


def test_renormalization_survives_constant_features_in_single_precision() -> None:
    x = th.full((8, D), 3.0, requires_grad=True)
    result = renormalize(x, th.zeros(1, D), th.ones(1, D))
    # std = sqrt(eps), so r = 1/3; (x - mean) / std is 0 and d = 3
    th.testing.assert_close(result.detach(), th.full((8, D), 3.0), rtol=1e-4, atol=1e-4)
    result.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(D,), (5, D), (N, 5, D)])
def test_rms_norm_is_torchs(shape: tuple[int, ...]) -> None:
    layer = nn.RMSNorm(D, eps=1e-3).double()
    nn.init.uniform_(layer.weight, 0.5, 2)
    x, own_x = (randn(*shape).requires_grad_() for _ in range(2))
    expected, result = layer(x), rms_norm(own_x, layer.weight, 1e-3)
    th.testing.assert_close(result, expected)
    th.testing.assert_close(
        th.autograd.grad(result.square().sum(), own_x), th.autograd.grad(expected.square().sum(), x)
    )


def test_rms_norm_by_hand() -> None:
    # The mean square of 3, 4 is 12.5; with eps = 12.5 the root is 5
    assert rms_norm(th.tensor([[3.0, 4.0]]), th.tensor([5.0, 10.0]), 12.5).tolist() == [[3.0, 8.0]]
    assert rms_norm(th.zeros(1, 2), th.ones(2), EPS).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("shape", "dim"), [((D, 5), 0), ((D, 5), 1), ((N, D, 5), 1), ((N, D, 5), 2), ((N, D, 5), -1)])
def test_columns_have_norm_1(shape: tuple[int, ...], dim: int) -> None:
    weight = nn.Parameter(3 * randn(*shape))
    before = weight.detach().clone()
    project_columns(weight, dim)
    assert weight.requires_grad
    for column, old in zip(
        weight.detach().movedim(dim, -1).flatten(0, -2).tolist(),
        before.movedim(dim, -1).flatten(0, -2).tolist(),
        strict=True,
    ):
        norm = math.sqrt(sum(x * x for x in old))
        assert column == pytest.approx([x / norm for x in old], rel=1e-12)


def test_columns_of_zeros_stay_finite() -> None:
    weight = th.tensor([[0.0, 3.0], [0.0, 4.0]])
    project_columns(weight, 0)
    th.testing.assert_close(weight, th.tensor([[0.0, 0.6], [0.0, 0.8]]))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("leading", [(), (N, 1)])
def test_features_have_the_norm_of_ones(leading: tuple[int, ...], with_bias: bool) -> None:
    weight = nn.Parameter(1 + randn(*leading, D))
    bias = nn.Parameter(randn(*leading, D, seed=1)) if with_bias else None
    old_weight, old_bias = weight.detach().clone(), bias.detach().clone() if with_bias else th.zeros(*leading, D)
    project_features(weight, bias)
    for n in range(N if leading else 1):
        rows = [tensor.detach().reshape(-1, D)[n].tolist() for tensor in (old_weight, old_bias)]
        factor = math.sqrt(D / sum(x * x for row in rows for x in row))
        assert weight.detach().reshape(-1, D)[n].tolist() == pytest.approx([factor * x for x in rows[0]], rel=1e-8)
        if with_bias:
            assert bias.detach().reshape(-1, D)[n].tolist() == pytest.approx([factor * x for x in rows[1]], rel=1e-8)


def test_features_by_hand() -> None:
    # Weights of a new layer stay. 1, 1, 1 and 3, 0, 0 have the squares 12, four times 3
    weight, bias = th.ones(3), th.zeros(3)
    project_features(weight, bias)
    th.testing.assert_close(weight, th.ones(3))
    assert (bias == 0).all()
    bias[0] = 3.0
    project_features(weight, bias)
    th.testing.assert_close(weight, th.full((3,), 0.5))
    th.testing.assert_close(bias, th.tensor([1.5, 0.0, 0.0]))


def test_features_of_zeros_stay_finite() -> None:
    weight = th.zeros(N, 1, D)
    project_features(weight)
    assert (weight == 0).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(1e-6, 1e6))
def test_projection_forgets_the_scale_and_repeats_nothing(seed: int, scale: float) -> None:
    original = randn(N, 1, D, seed=seed)
    projected = [original.clone(), scale * original]
    for weight in projected:
        project_columns(weight, -1)
    th.testing.assert_close(projected[1], projected[0])
    once = projected[0].clone()
    project_columns(projected[0], -1)
    th.testing.assert_close(projected[0], once)
    assert th.equal(projected[0].sign(), original.sign())
