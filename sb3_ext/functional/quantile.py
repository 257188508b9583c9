"""
The loss of implicit quantile networks, and the distortions that make a policy risk-averse or risk-seeking.

Dabney et al. 2018, https://arxiv.org/abs/1806.06923.
"""

import numbers
from typing import Literal, get_args

import torch as th

#: How the quantile levels for action values can be distorted
RiskMeasure = Literal["neutral", "cvar", "wang", "cpw", "pow"]
RISK_MEASURES: tuple[RiskMeasure, ...] = get_args(RiskMeasure)
#: What a prioritized buffer gets as the error of a transition
PriorityError = Literal["loss", "absolute"]


def quantile_huber_loss(
    quantiles: th.Tensor, taus: th.Tensor, target_quantiles: th.Tensor, kappa: float = 1.0
) -> th.Tensor:
    """
    Compute equation 3 of the paper for each sample of a batch.

    With ``delta_ij = target_j - quantile_i`` it is
    ``sum_i mean_j |tau_i - 1[delta_ij < 0]| huber_kappa(delta_ij) / kappa``.

    :param quantiles: quantiles at the levels ``taus``, shape (B, T)
    :param taus: in [0, 1], shape (B, T)
    :param target_quantiles: shape (B, T'), detached
    :param kappa: error from which the loss is linear, > 0
    :return: shape (B,)
    :raises ValueError: if the shapes do not fit, because broadcasting could give a wrong loss
    """
    if quantiles.ndim != 2 or quantiles.shape != taus.shape or target_quantiles.ndim != 2:
        raise ValueError(
            f"quantiles {tuple(quantiles.shape)} and taus {tuple(taus.shape)} must have one shape (B, T), "
            f"target_quantiles {tuple(target_quantiles.shape)} the shape (B, T')"
        )
    if quantiles.shape[0] != target_quantiles.shape[0]:
        raise ValueError(
            f"quantiles {tuple(quantiles.shape)} and target_quantiles {tuple(target_quantiles.shape)} must have the "
            "same first dimension"
        )
    errors = target_quantiles.unsqueeze(1) - quantiles.unsqueeze(2)  # (B, T, T')
    # clamp(x) * (x - clamp(x) / 2) is the Huber loss without a branch
    clipped = errors.clamp(-kappa, kappa)
    huber = clipped * (errors - 0.5 * clipped)
    asymmetry = (taus.unsqueeze(2) - (errors.detach() < 0).to(taus.dtype)).abs()
    return (asymmetry * huber).mean(dim=2).sum(dim=1) / kappa


def absolute_quantile_errors(quantiles: th.Tensor, target_quantiles: th.Tensor) -> th.Tensor:
    """
    Compute ``sum_i mean_j |target_j - quantile_i|``, BTR's priority (https://arxiv.org/abs/2411.03820).

    :param quantiles: shape (B, T)
    :param target_quantiles: shape (B, T')
    :return: shape (B,)
    """
    return (target_quantiles.unsqueeze(1) - quantiles.unsqueeze(2)).abs().mean(dim=2).sum(dim=1)


def quantile_midpoints(n_quantiles: int, device: th.device | str = "cpu") -> th.Tensor:
    """
    Return ``(k + 1/2) / n``: the n levels whose quantiles represent a distribution best, without randomness.

    :return: shape (n,)
    """
    return (th.arange(n_quantiles, device=device, dtype=th.float32) + 0.5) / n_quantiles


def check_risk(risk_measure: RiskMeasure, risk_eta: float) -> None:
    """
    Check the risk measure and its parameter.

    :param risk_measure: one of :data:`RISK_MEASURES`
    :param risk_eta: in (0, 1] for ``"cvar"`` and ``"cpw"``, between -1e6 and 1e6 for the others
    :raises ValueError: naming the argument, its value and what is allowed
    """
    if not isinstance(risk_measure, str) or risk_measure not in RISK_MEASURES:
        raise ValueError(f"risk_measure={risk_measure!r} is not one of {', '.join(map(repr, RISK_MEASURES))}")
    is_number = isinstance(risk_eta, numbers.Real) and not isinstance(risk_eta, bool)
    if risk_measure in ("cvar", "cpw"):
        is_allowed, allowed = is_number and 0 < risk_eta <= 1, "in (0, 1]"
    else:
        is_allowed, allowed = is_number and abs(risk_eta) <= 1e6, "a number between -1e6 and 1e6"
    if not is_allowed:
        raise ValueError(f"risk_eta={risk_eta!r} must be {allowed} with risk_measure={risk_measure!r}")


def distort_taus(taus: th.Tensor, risk_measure: RiskMeasure, risk_eta: float = 0.0) -> th.Tensor:
    """
    Distort the quantile levels for action values, as in section 3.2 of the paper.

    The mean of the quantiles at distorted uniform levels is the value under the risk measure.

    - ``"cvar"``: ``eta tau``, the mean of the worst fraction eta of the returns
    - ``"wang"``: ``Phi(Phi^-1(tau) + eta)``, risk-averse for eta < 0
    - ``"cpw"``: ``tau^eta / (tau^eta + (1 - tau)^eta)^(1 / eta)``, which overweights both tails; it increases with tau
      only for eta above about 0.28
    - ``"pow"``: ``1 - (1 - tau)^(1 / (1 + |eta|))``, risk-averse, for eta < 0, otherwise ``tau^(1 / (1 + |eta|))``

    :param taus: in [0, 1], any shape
    :param risk_measure: one of :data:`RISK_MEASURES`
    :param risk_eta: see :func:`check_risk`
    :return: the same shape, in [0, 1]
    :raises ValueError: for an unknown measure or a parameter outside its range
    """
    check_risk(risk_measure, risk_eta)
    if risk_measure == "cvar":
        return risk_eta * taus
    if risk_measure == "wang":
        return th.special.ndtr(th.special.ndtri(taus) + risk_eta)
    if risk_measure == "cpw":
        powers, others = taus**risk_eta, (1 - taus) ** risk_eta
        return powers / (powers + others) ** (1 / risk_eta)
    if risk_measure == "pow":
        exponent = 1 / (1 + abs(risk_eta))
        return taus**exponent if risk_eta >= 0 else 1 - (1 - taus) ** exponent
    return taus
