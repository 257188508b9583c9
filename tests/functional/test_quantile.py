"""The quantile loss and the risk measures, against loops over Python floats and numbers worked out by hand."""

import math
from statistics import NormalDist

import pytest
import torch as th
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sb3_contrib.common.utils import quantile_huber_loss as contrib_quantile_huber_loss
from torch.nn import functional as F

from sb3_ext.functional.quantile import (
    RISK_MEASURES,
    check_risk,
    distort_taus,
    quantile_huber_loss,
    quantile_midpoints,
)

B, T, T_TARGET = 5, 7, 11
TINY = 1e-30

#: Each measure with parameters that matter, extreme ones among them
RISKS = [
    ("neutral", 0.3),
    *(("cvar", eta) for eta in (1e-6, 0.25, 1.0)),
    *(("wang", eta) for eta in (-30.0, -0.75, 0.0, 0.75, 30.0)),
    *(("cpw", eta) for eta in (0.01, 0.1, 0.3, 0.71, 1.0)),
    *(("pow", eta) for eta in (-1000.0, -2.0, 0.0, 0.5, 1000.0)),
]


def randn(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def rand(*shape: int, seed: int = 0) -> th.Tensor:
    return th.rand(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def distort_of(tau: float, risk_measure: str, eta: float) -> float:
    if risk_measure == "cvar":
        return eta * tau
    if risk_measure == "wang":
        # The inverse is not defined at the ends, which are fixed points
        return tau if tau in (0.0, 1.0) else NormalDist().cdf(NormalDist().inv_cdf(tau) + eta)
    if risk_measure == "cpw":
        return tau**eta / math.pow(tau**eta + (1 - tau) ** eta, 1 / eta)
    if risk_measure == "pow" and eta >= 0:
        return math.pow(tau, 1 / (1 + abs(eta)))
    if risk_measure == "pow":
        return 1 - math.pow(1 - tau, 1 / (1 + abs(eta)))
    return tau


def loss_and_gradient_of(
    quantiles: list[float], taus: list[float], targets: list[float], kappa: float
) -> tuple[float, list[float], int]:
    """
    :return: the loss of one sample, its gradient with respect to the quantiles, and the number of errors above kappa
    """
    loss, gradient, n_linear = 0.0, [0.0] * len(quantiles), 0
    for i, (quantile, tau) in enumerate(zip(quantiles, taus, strict=True)):
        for target in targets:
            delta = target - quantile
            factor = abs(tau - (1.0 if delta < 0 else 0.0)) / kappa / len(targets)
            if abs(delta) <= kappa:
                loss += factor * delta**2 / 2
                # d delta / d quantile = -1, and the indicator is a constant
                gradient[i] -= factor * delta
            else:
                n_linear += 1
                loss += factor * kappa * (abs(delta) - kappa / 2)
                gradient[i] -= factor * math.copysign(kappa, delta)
    return loss, gradient, n_linear


# Equal sizes, too: there a wrong broadcast raises no error, but gives a wrong loss
@pytest.mark.parametrize("shape", [(B, T, T_TARGET), (B, T_TARGET, T), (B, B, B)])
def test_loss_and_gradient_against_loops(shape: tuple[int, int, int]) -> None:
    n, n_online, n_target = shape
    taus, targets, weights = rand(n, n_online, seed=2), 2 * randn(n, n_target, seed=3), rand(n, seed=4)
    for kappa in (0.3, 1.0, 2.5):
        quantiles = (2 * randn(n, n_online, seed=1)).requires_grad_()
        losses = quantile_huber_loss(quantiles, taus, targets, kappa)
        assert losses.shape == (n,)
        (weights * losses).sum().backward()
        all_linear = 0
        for b in range(n):
            loss, gradient, n_linear = loss_and_gradient_of(
                quantiles[b].tolist(), taus[b].tolist(), targets[b].tolist(), kappa
            )
            all_linear += n_linear
            assert losses[b].item() == pytest.approx(loss, rel=1e-12)
            expected = [weights[b].item() * slope for slope in gradient]
            assert quantiles.grad[b].tolist() == pytest.approx(expected, rel=1e-11, abs=1e-13)
        # Both parts of the Huber loss were there
        assert 0 < all_linear < n * n_online * n_target


def test_loss_and_gradient_by_hand() -> None:
    # Two quantiles, 0 at tau = 1/4 and 4 at tau = 3/4, three targets (1, -2, 4), kappa 2: Huber is delta^2 / 2 up to 2,
    # then 2 (|delta| - 1).
    # Quantile 0: delta (1, -2, 4),  Huber (1/2, 2, 6),  weight (1/4, 3/4, 1/4): (1/8 + 3/2 + 3/2) / 3 = 25/24
    # Quantile 4: delta (-3, -6, 0), Huber (4, 10, 0),   weight (1/4, 1/4, 3/4): (1 + 5/2 + 0) / 3     = 28/24
    # The sum over kappa: 53/48
    # Minus the slopes (1, -2, 2) and (-2, -2, 0), weighted, over 3 kappa:
    #   -(1/4 - 3/2 + 1/2) / 6 = 1/8,  -(-1/2 - 1/2 + 0) / 6 = 1/6
    quantiles = th.tensor([[0.0, 4.0]], dtype=th.float64, requires_grad=True)
    taus, targets = th.tensor([[0.25, 0.75]]).double(), th.tensor([[1.0, -2.0, 4.0]]).double()
    loss = quantile_huber_loss(quantiles, taus, targets, kappa=2.0)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([53 / 48])
    assert quantiles.grad.flatten().tolist() == pytest.approx([1 / 8, 1 / 6])


def test_loss_sums_over_online_and_averages_over_target_levels() -> None:
    quantiles, taus, targets = randn(B, T, seed=1), rand(B, T, seed=2), randn(B, T_TARGET, seed=3)
    loss = quantile_huber_loss(quantiles, taus, targets)
    th.testing.assert_close(quantile_huber_loss(quantiles, taus, targets.repeat(1, 3)), loss)
    th.testing.assert_close(quantile_huber_loss(quantiles.repeat(1, 3), taus.repeat(1, 3), targets), 3 * loss)


def test_samples_do_not_mix() -> None:
    quantiles, taus, targets = randn(B, T, seed=1), rand(B, T, seed=2), randn(B, T_TARGET, seed=3)
    loss = quantile_huber_loss(quantiles, taus, targets)
    for b in range(B):
        alone = quantile_huber_loss(quantiles[b : b + 1], taus[b : b + 1], targets[b : b + 1])
        assert alone.item() == pytest.approx(loss[b].item(), rel=1e-12)


def test_medians_have_half_the_huber_loss_of_torch() -> None:
    quantiles, targets, kappa = randn(B, T, seed=1), randn(B, T_TARGET, seed=2), 0.6
    online = quantiles.unsqueeze(2).expand(-1, -1, T_TARGET)
    huber = F.huber_loss(online, targets.unsqueeze(1).expand(-1, T, -1), reduction="none", delta=kappa)
    loss = quantile_huber_loss(quantiles, th.full((B, T), 0.5, dtype=th.float64), targets, kappa)
    th.testing.assert_close(loss, 0.5 * huber.mean(dim=2).sum(dim=1) / kappa)


def test_mean_over_the_batch_is_sb3_contribs() -> None:
    """
    For (B, T) quantiles, sb3_contrib's is a mean over the batch of a sum over online and a mean over target quantiles.
    """
    quantiles, targets = 2 * randn(B, T, seed=1), 2 * randn(B, T_TARGET, seed=2)
    midpoints, taus = quantile_midpoints(T).double().expand(B, -1), rand(B, T, seed=3)

    loss = quantile_huber_loss(quantiles, midpoints, targets).mean()
    # Its default levels are the midpoints, and it has no other kappa than 1
    th.testing.assert_close(loss, contrib_quantile_huber_loss(quantiles, targets, sum_over_quantiles=True))
    th.testing.assert_close(loss / T, contrib_quantile_huber_loss(quantiles, targets, sum_over_quantiles=False))
    # Random levels need the shape (B, T, 1) there
    th.testing.assert_close(
        quantile_huber_loss(quantiles, taus, targets).mean(),
        contrib_quantile_huber_loss(quantiles, targets, taus.unsqueeze(2)),
    )


def test_loss_is_least_at_the_quantile() -> None:
    # Targets 0 to 10 and tau = 1/4, almost without a quadratic part. Times 11, the gradient is
    # at 1.5: -(9 * 1/4 - 2 * 3/4) = -3/4;   at 2.5: -(8 * 1/4 - 3 * 3/4) = 1/4: the least is at 2, a quarter of the way
    # up. A tau taken from the wrong side finds it at 8.
    targets = th.arange(11, dtype=th.float64).expand(2, -1)
    quantiles = th.tensor([[1.5], [2.5]], dtype=th.float64, requires_grad=True)
    quantile_huber_loss(quantiles, th.full((2, 1), 0.25, dtype=th.float64), targets, kappa=1e-3).sum().backward()
    assert (11 * quantiles.grad).flatten().tolist() == pytest.approx([-0.75, 0.25])


@settings(max_examples=50)
@given(seed=st.integers(0, 2**20), kappa=st.floats(1e-3, 1e3), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_loss_scales_with_its_errors(seed: int, kappa: float, scale: float, shift: float) -> None:
    quantiles, taus, targets = randn(B, T, seed=seed), rand(B, T, seed=seed + 1), randn(B, T_TARGET, seed=seed + 2)
    loss = quantile_huber_loss(quantiles, taus, targets, kappa)
    assert (loss > 0).all()
    # rho_kappa(c delta) with c kappa is c rho_kappa(delta), and a common shift is in no error
    scaled = quantile_huber_loss(scale * quantiles + shift, taus, scale * targets + shift, scale * kappa)
    th.testing.assert_close(scaled, scale * loss, rtol=1e-6, atol=1e-8 * scale)
    same = quantiles[:, :1]
    assert th.equal(quantile_huber_loss(same, taus[:, :1], same.expand(-1, 9), kappa), th.zeros(B, dtype=th.float64))


def test_loss_of_huge_errors_is_finite() -> None:
    quantiles = th.tensor([[1e30, -1e30]], requires_grad=True)
    loss = quantile_huber_loss(quantiles, th.tensor([[0.25, 0.25]]), th.zeros(1, 3))
    loss.sum().backward()
    # (3/4 + 1/4) 1e30, and the slopes 3/4 and -1/4
    assert loss.item() == pytest.approx(1e30, rel=1e-6)
    assert quantiles.grad.flatten().tolist() == pytest.approx([0.75, -0.25])


@pytest.mark.parametrize(
    ("quantiles", "taus", "targets", "named"),
    [
        ((B, T), (T,), (B, T_TARGET), r"quantiles \(5, 7\) and taus \(7,\)"),
        ((B, T), (1, T), (B, T_TARGET), r"quantiles \(5, 7\) and taus \(1, 7\)"),
        ((B, T), (B, T, 1), (B, T_TARGET), r"quantiles \(5, 7\) and taus \(5, 7, 1\)"),
        ((B, T, 1), (B, T, 1), (B, T_TARGET), r"quantiles \(5, 7, 1\) and taus \(5, 7, 1\)"),
        ((B, T), (B, T), (B, 1, T_TARGET), r"target_quantiles \(5, 1, 11\)"),
        ((B, T), (B, T), (1, T_TARGET), r"quantiles \(5, 7\) and target_quantiles \(1, 11\)"),
    ],
)
def test_loss_does_not_broadcast(
    quantiles: tuple[int, ...], taus: tuple[int, ...], targets: tuple[int, ...], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        quantile_huber_loss(th.zeros(quantiles), th.full(taus, 0.5), th.zeros(targets))


def test_midpoints() -> None:
    assert quantile_midpoints(1).tolist() == [0.5]
    assert quantile_midpoints(4).tolist() == [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    midpoints = quantile_midpoints(200)
    assert midpoints.dtype == th.float32
    assert midpoints.tolist() == pytest.approx([(2 * k + 1) / 400 for k in range(200)], rel=1e-6)


@pytest.mark.parametrize("risk_measure", RISK_MEASURES)
def test_distortion_against_loops(risk_measure: str) -> None:
    taus = th.cat([rand(5, 7, 9).flatten(), th.tensor([0.0, TINY, 1e-6, 0.5, 1 - 1e-6, 1.0])]).view(3, -1)
    for measure, eta in RISKS:
        if measure != risk_measure:
            continue
        distorted = distort_taus(taus, measure, eta)
        expected = [distort_of(tau, measure, eta) for tau in taus.flatten().tolist()]
        assert distorted.shape == taus.shape
        assert distorted.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12), eta
        # In float32, the formula of the rounded levels
        rounded = taus.float()
        distorted = distort_taus(rounded, measure, eta)
        expected = [distort_of(tau, measure, eta) for tau in rounded.flatten().tolist()]
        assert distorted.dtype == th.float32
        assert distorted.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=2e-6), eta


def test_distortion_by_hand() -> None:
    cases = [
        ("cvar", 0.25, 0.8, 0.2),
        # Phi(0 + 1), and Phi(1 - 2) = 1 - Phi(1)
        ("wang", 1.0, 0.5, 0.8413447460685429),
        ("wang", -2.0, 0.8413447460685429, 0.15865525393145707),
        # 0.36^0.5 = 0.6 and 0.64^0.5 = 0.8: 0.6 / 1.4^2, and from the other side 0.8 / 1.4^2: low levels are raised
        # less than high ones are lowered
        ("cpw", 0.5, 0.36, 0.6 / 1.96),
        ("cpw", 0.5, 0.64, 0.8 / 1.96),
        # 0.25^(1/2); 1 - (1 - 0.75)^(1/2); 0.001^(1/3)
        ("pow", 1.0, 0.25, 0.5),
        ("pow", -1.0, 0.75, 0.5),
        ("pow", 2.0, 0.001, 0.1),
        ("neutral", 0.7, 0.3, 0.3),
    ]
    for measure, eta, tau, expected in cases:
        assert distort_taus(th.tensor([tau]).double(), measure, eta).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_ends_and_tiny_levels(dtype: th.dtype) -> None:
    # 1e-45 is below the smallest normal float32 number, and 1 - 6e-8 the last one below 1
    taus = th.tensor([0.0, 1e-45, TINY, 1e-8, 1e-3, 0.5, 1 - 1e-3, 1 - 6e-8, 1.0], dtype=dtype)
    for measure, eta in [*RISKS, ("cvar", math.ulp(0.0)), ("wang", -1e6), ("wang", 1e6), ("pow", -1e6), ("pow", 1e6)]:
        distorted = distort_taus(taus, measure, eta)
        assert not distorted.isnan().any(), (measure, eta)
        assert ((distorted >= 0) & (distorted <= 1)).all(), (measure, eta)
        # The worst return stays the worst, and only CVaR leaves out the best
        assert distorted[0] == 0, (measure, eta)
        assert distorted[-1] == (th.tensor(eta, dtype=dtype) if measure == "cvar" else 1), (measure, eta)


risks = st.one_of(
    st.tuples(st.just("neutral"), st.floats(-10, 10)),
    st.tuples(st.just("cvar"), st.floats(1e-6, 1)),
    st.tuples(st.just("wang"), st.floats(-30, 30)),
    st.tuples(st.just("cpw"), st.floats(0.01, 1)),
    st.tuples(st.just("pow"), st.floats(-1000, 1000)),
)


@settings(max_examples=200)
@given(risk=risks, levels=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=9))
def test_distortion_is_in_the_interval_and_monotone(risk: tuple[str, float], levels: list[float]) -> None:
    taus = th.tensor(sorted(levels))
    for levels_of_a_type in (taus, taus.double()):
        distorted = distort_taus(levels_of_a_type, *risk)
        assert ((distorted >= 0) & (distorted <= 1)).all()
        # The formula of cpw itself falls in the middle for eta < 0.279, there is nothing to ask for
        if risk[0] != "cpw" or risk[1] >= 0.28:
            rounding = 64 * th.finfo(distorted.dtype).eps
            assert (distorted.diff() >= -rounding).all()


@settings(max_examples=100)
@given(tau=st.floats(1e-3, 1 - 1e-3), eta=st.floats(1e-3, 3))
def test_sign_of_eta_is_the_attitude_to_risk(tau: float, eta: float) -> None:
    taus = th.tensor([tau], dtype=th.float64)
    for measure in ("wang", "pow"):
        # Averse to risk: lower levels
        assert distort_taus(taus, measure, -eta) < taus < distort_taus(taus, measure, eta)
        # Both signs are mirror images of each other
        mirrored = 1 - distort_taus(1 - taus, measure, -eta)
        th.testing.assert_close(distort_taus(taus, measure, eta), mirrored, rtol=1e-9, atol=1e-12)
    assume(eta < 1)
    assert distort_taus(taus, "cvar", eta) < taus


def test_identities() -> None:
    taus = th.cat([rand(5, 7).flatten(), th.tensor([0.0, TINY, 1.0])])
    for measure, eta in (("cvar", 1.0), ("wang", 0.0), ("pow", 0.0), ("cpw", 1.0)):
        th.testing.assert_close(distort_taus(taus, measure, eta), taus, rtol=1e-12, atol=1e-14)
        th.testing.assert_close(distort_taus(taus.float(), measure, eta), taus.float(), rtol=0, atol=1e-6)


def test_neutral_returns_its_input() -> None:
    taus = rand(5, 7)
    assert all(th.equal(distort_taus(taus, "neutral", eta), taus) for eta in (-3.0, 0.0, 0.25, 1.0))
    assert th.equal(distort_taus(taus, "neutral"), taus)


def test_cvar_is_the_mean_of_the_worst_returns() -> None:
    # Returns 0, 1, ..., 99 of equal probability: the worst quarter is 0 to 24, its mean 12; a tenth, 0 to 9: 4.5
    returns = th.arange(100, dtype=th.float64)
    taus = quantile_midpoints(10_000).double()
    for eta, expected in ((0.25, 12.0), (0.1, 4.5), (1.0, 49.5)):
        levels = distort_taus(taus, "cvar", eta)
        assert returns[(100 * levels).long()].mean().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("risk_measure", "eta", "message"),
    [
        ("var", 0.5, r"risk_measure='var' is not one of 'neutral', 'cvar', 'wang', 'cpw', 'pow'"),
        ("cvar", 0.0, r"risk_eta=0.0 must be in \(0, 1\] with risk_measure='cvar'"),
        ("cvar", 1.5, r"risk_eta=1.5 must be in \(0, 1\] with risk_measure='cvar'"),
        ("cpw", -0.5, r"risk_eta=-0.5 must be in \(0, 1\] with risk_measure='cpw'"),
        ("cpw", float("nan"), r"risk_eta=nan must be in \(0, 1\] with risk_measure='cpw'"),
        ("wang", float("inf"), r"risk_eta=inf must be a number between -1e6 and 1e6"),
        ("wang", "0.5", r"risk_eta='0.5' must be a number"),
        ("pow", float("nan"), r"risk_eta=nan must be a number"),
    ],
)
def test_bad_risk(risk_measure: str, eta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_risk(risk_measure, eta)
    with pytest.raises(ValueError, match=message):
        distort_taus(rand(5, 7), risk_measure, eta)
