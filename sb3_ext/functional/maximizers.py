"""
Maxima of a function of actions, for many states at once, by values alone.

- ``"random"``: the best of uniform actions
- ``"cem"``: the cross-entropy method, as QT-Opt uses it (Kalashnikov et al. 2018, https://arxiv.org/abs/1806.10293)
- ``"cma"``: the covariance matrix adaptation evolution strategy with active updates (Hansen 2016,
  https://arxiv.org/abs/1604.00772). A state is one problem, and all take a step together

Actions lie in [-1, 1]. Notation: B states, K candidates for each, A action dimensions.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch as th

#: How the best action is sought
Maximizer = Literal["random", "cem", "cma"]
MAXIMIZERS: tuple[Maximizer, ...] = get_args(Maximizer)
#: The smallest population of CMA-ES
FEWEST_SAMPLES_OF_CMA = 4
#: Values of actions: from shape (K, B, A) to (K, B)
Values = Callable[[th.Tensor], th.Tensor]
# Standard deviation of the first candidates of CMA: the middle half of [-1, 1] lies within one
_FIRST_SIGMA = 0.5
# Variances stay above it, so that matrices have inverses
_SMALLEST_VARIANCE = 1e-12


class Best(NamedTuple):
    """
    The best candidates so far.

    :param actions: shape (B, A)
    :param values: shape (B,)
    """

    actions: th.Tensor
    values: th.Tensor

    def or_better(self, candidates: th.Tensor, values: th.Tensor) -> "Best":
        """Take the best of K further candidates where it is better, shapes (K, B, A) and (K, B)."""
        found = best_of(candidates, values)
        is_better = found.values > self.values
        actions = th.where(is_better.unsqueeze(1), found.actions, self.actions)
        return Best(actions, th.maximum(found.values, self.values))


def best_of(candidates: th.Tensor, values: th.Tensor) -> Best:
    """Choose the best of K candidates for each state, shapes (K, B, A) and (K, B)."""
    best, index = values.max(dim=0)
    chosen = index.view(1, -1, 1).expand(1, -1, candidates.shape[2])
    return Best(candidates.gather(0, chosen).squeeze(0), best)


def uniform_actions(n_samples: int, like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
    """
    Draw actions uniformly from [-1, 1], shape (K, B, A), where ``like`` has shape (B, A).

    :param generator: if given, all states get the same random numbers. So a state's action does not depend on others
    """
    return 2.0 * _drawn(th.rand, n_samples, like, generator) - 1.0


def _normal(n_samples: int, like: th.Tensor, generator: th.Generator | None) -> th.Tensor:
    return _drawn(th.randn, n_samples, like, generator)


def _drawn(
    draw: Callable[..., th.Tensor], n_samples: int, like: th.Tensor, generator: th.Generator | None
) -> th.Tensor:
    n_states = len(like) if generator is None else 1
    drawn = draw(n_samples, n_states, like.shape[1], dtype=like.dtype, device=like.device, generator=generator)
    return drawn.expand(-1, len(like), -1)


def random_search(values: Values, n_samples: int, like: th.Tensor, generator: th.Generator | None = None) -> Best:
    """
    Take the best of uniform candidates.

    :param values: evaluates candidates
    :param like: any tensor of shape (B, A), for number, type and device
    """
    candidates = uniform_actions(n_samples, like, generator)
    return best_of(candidates, values(candidates))


def cross_entropy_method(
    values: Values,
    n_samples: int,
    n_elites: int,
    n_iterations: int,
    like: th.Tensor,
    generator: th.Generator | None = None,
) -> Best:
    """
    Fit a Gaussian to the best candidates, draw new ones from it, and so on. The first ones are uniform.

    :param n_elites: how many candidates the Gaussian is fitted to, from 1 to ``n_samples``
    :param n_iterations: how often candidates are drawn, at least 1
    """
    candidates = uniform_actions(n_samples, like, generator)
    found = values(candidates)
    best = best_of(candidates, found)
    for _ in range(n_iterations - 1):
        index = found.topk(n_elites, dim=0).indices
        elites = candidates.gather(0, index.unsqueeze(2).expand(-1, -1, candidates.shape[2]))
        mean, std = elites.mean(dim=0), elites.std(dim=0, correction=0)
        candidates = (mean + std * _normal(n_samples, like, generator)).clamp(-1.0, 1.0)
        found = values(candidates)
        best = best.or_better(candidates, found)
    return best


class CMAState(NamedTuple):
    """
    The search distributions of B problems.

    :param mean: shape (B, A)
    :param sigma: step sizes, shape (B,)
    :param covariance: shape (B, A, A)
    :param path_sigma: evolution paths of the step sizes, shape (B, A)
    :param path_c: evolution paths of the covariances, shape (B, A)
    :param generation: number of steps so far
    """

    mean: th.Tensor
    sigma: th.Tensor
    covariance: th.Tensor
    path_sigma: th.Tensor
    path_c: th.Tensor
    generation: int


class CMAWeights(NamedTuple):
    """
    Constants of CMA-ES that depend on K and A alone, see table 1 of https://arxiv.org/abs/1604.00772.

    :param recombination: of the candidates, the best first, shape (K,); the second half is negative
    """

    recombination: th.Tensor
    n_parents: int
    mu_eff: float
    c_1: float
    c_mu: float
    c_c: float
    c_sigma: float
    d_sigma: float


def cma_weights(n_samples: int, n_actions: int) -> CMAWeights:
    """
    Compute the constants.

    :param n_samples: K, at least 4
    :param n_actions: A
    """
    raw = th.tensor([math.log((n_samples + 1) / 2) - math.log(k + 1) for k in range(n_samples)], dtype=th.float64)
    n_parents = n_samples // 2
    positive, negative = raw[:n_parents], raw[n_parents:]
    mu_eff = (positive.sum().square() / positive.square().sum()).item()
    mu_eff_negative = (negative.sum().square() / negative.square().sum()).item()
    c_1 = 2 / ((n_actions + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1 - 1e-8, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n_actions + 2) ** 2 + mu_eff))
    largest_negative = min(
        1 + c_1 / c_mu, 1 + 2 * mu_eff_negative / (mu_eff + 2), (1 - c_1 - c_mu) / (n_actions * c_mu)
    )
    scale = th.where(raw >= 0, 1 / raw[raw > 0].sum(), largest_negative / raw[raw < 0].abs().sum())
    c_sigma = (mu_eff + 2) / (n_actions + mu_eff + 5)
    return CMAWeights(
        recombination=raw * scale,
        n_parents=n_parents,
        mu_eff=mu_eff,
        c_1=c_1,
        c_mu=c_mu,
        c_c=(4 + mu_eff / n_actions) / (n_actions + 4 + 2 * mu_eff / n_actions),
        c_sigma=c_sigma,
        d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n_actions + 1)) - 1) + c_sigma,
    )


def cma_start(like: th.Tensor) -> CMAState:
    """Begin in the middle of the actions, for B problems where ``like`` has shape (B, A)."""
    n_states, n_actions = like.shape
    nothing = th.zeros_like(like)
    unit = th.eye(n_actions, dtype=like.dtype, device=like.device).expand(n_states, -1, -1)
    return CMAState(nothing, th.full_like(like[:, 0], _FIRST_SIGMA), unit, nothing, nothing, 0)


def cma_candidates(state: CMAState, n_samples: int, generator: th.Generator | None = None) -> th.Tensor:
    """Draw candidates from the search distributions, not clipped, shape (K, B, A)."""
    variances, vectors = th.linalg.eigh(state.covariance)
    roots = vectors * variances.clamp(min=_SMALLEST_VARIANCE).sqrt().unsqueeze(1)
    noise = _normal(n_samples, state.mean, generator)
    return state.mean + state.sigma.unsqueeze(1) * th.einsum("bij,kbj->kbi", roots, noise)


def cma_step(state: CMAState, candidates: th.Tensor, values: th.Tensor, weights: CMAWeights) -> CMAState:
    """
    Adapt the search distributions to the ranks of their candidates.

    :param candidates: shape (K, B, A)
    :param values: the larger the better, shape (K, B)
    """
    n_actions, generation = state.mean.shape[1], state.generation + 1
    w = weights.recombination.to(state.mean)
    order = values.argsort(dim=0, descending=True, stable=True).unsqueeze(2).expand_as(candidates)
    steps = (candidates.gather(0, order) - state.mean) / state.sigma.unsqueeze(1)
    move = th.einsum("k,kba->ba", w[: weights.n_parents], steps[: weights.n_parents])

    variances, vectors = th.linalg.eigh(state.covariance)
    inverse_root = vectors / variances.clamp(min=_SMALLEST_VARIANCE).sqrt().unsqueeze(1) @ vectors.mT
    push = math.sqrt(weights.c_sigma * (2 - weights.c_sigma) * weights.mu_eff)
    path_sigma = (1 - weights.c_sigma) * state.path_sigma + push * th.einsum("bij,bj->bi", inverse_root, move)
    length = path_sigma.norm(dim=1)
    expected = math.sqrt(n_actions) * (1 - 1 / (4 * n_actions) + 1 / (21 * n_actions**2))
    sigma = state.sigma * th.exp((weights.c_sigma / weights.d_sigma) * (length / expected - 1))

    # The path of the covariance stands still while the step size grows fast
    bound = (1.4 + 2 / (n_actions + 1)) * expected * math.sqrt(1 - (1 - weights.c_sigma) ** (2 * (generation + 1)))
    moves = (length < bound).to(state.mean.dtype)
    drift = math.sqrt(weights.c_c * (2 - weights.c_c) * weights.mu_eff)
    path_c = (1 - weights.c_c) * state.path_c + drift * moves.unsqueeze(1) * move

    # Negative weights are scaled so that the covariance stays positive definite
    lengths = th.einsum("bij,kbj->kbi", inverse_root, steps).square().sum(dim=2)
    scaled = w.unsqueeze(1) * th.where(w.unsqueeze(1) >= 0, 1.0, n_actions / (lengths + 1e-8))
    rank_one = path_c.unsqueeze(2) * path_c.unsqueeze(1)
    rank_mu = th.einsum("kb,kbi,kbj->bij", scaled, steps, steps)
    lost = (1 - moves) * weights.c_c * (2 - weights.c_c)
    kept = 1 + weights.c_1 * lost - weights.c_1 - weights.c_mu * w.sum()
    covariance = kept.view(-1, 1, 1) * state.covariance + weights.c_1 * rank_one + weights.c_mu * rank_mu
    return CMAState(state.mean + state.sigma.unsqueeze(1) * move, sigma, covariance, path_sigma, path_c, generation)


def cma_search(
    values: Values, n_samples: int, n_iterations: int, like: th.Tensor, generator: th.Generator | None = None
) -> Best:
    """
    Seek the best actions by CMA-ES. Candidates beyond [-1, 1] are clipped before they are evaluated and ranked.

    :param n_samples: K, at least 4
    :param n_iterations: how often candidates are drawn, at least 1
    """
    state, weights = cma_start(like), cma_weights(n_samples, like.shape[1])
    best: Best | None = None
    for iteration in range(n_iterations):
        candidates = cma_candidates(state, n_samples, generator)
        clipped = candidates.clamp(-1.0, 1.0)
        found = values(clipped)
        best = best_of(clipped, found) if best is None else best.or_better(clipped, found)
        if iteration < n_iterations - 1:
            state = cma_step(state, candidates, found, weights)
    assert best is not None
    return best


def maximize(
    maximizer: Maximizer,
    values: Values,
    n_samples: int,
    n_elites: int,
    n_iterations: int,
    like: th.Tensor,
    generator: th.Generator | None = None,
) -> Best:
    """
    Seek the best actions of B states.

    :param values: evaluates candidates
    :param n_elites: only for ``"cem"``
    :param like: any tensor of shape (B, A), for number, type and device
    :raises ValueError: for another maximizer
    """
    if maximizer == "random":  # with as many candidates as the others draw
        return random_search(values, n_samples * n_iterations, like, generator)
    if maximizer == "cem":
        return cross_entropy_method(values, n_samples, n_elites, n_iterations, like, generator)
    if maximizer == "cma":
        return cma_search(values, n_samples, n_iterations, like, generator)
    raise ValueError(f"maximizer={maximizer!r} is not one of {', '.join(map(repr, MAXIMIZERS))}")
