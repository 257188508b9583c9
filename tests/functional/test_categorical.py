"""
Categorical returns against loops over Python floats and numbers worked out by hand.

N critics, B transitions and K atoms always differ, so that a reduction over the wrong axis has the wrong shape.
"""

import itertools
import math

import pytest
import torch as th
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sb3_ext.functional.categorical import (
    categorical_backup,
    categorical_critic_loss,
    categorical_projection,
    categorical_support,
    categorical_td_target,
    expected_value,
)
from sb3_ext.functional.ensemble import TARGET_BACKUPS, ensemble_backup

N, B, K = 3, 4, 5
# -2, -1, 0, 1, 2
SUPPORT = th.linspace(-2, 2, K, dtype=th.float64)

Row = list[float]


def random_logits(*shape: int, seed: int = 0) -> th.Tensor:
    return 2 * th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def random_probabilities(*shape: int, seed: int = 0) -> th.Tensor:
    return random_logits(*shape, seed=seed).softmax(-1)


def one_hot(*bins: int) -> th.Tensor:
    return th.eye(K, dtype=th.float64)[list(bins)]


def oracle_projection(probabilities: Row, atoms: Row, support: Row) -> Row:
    result = [0.0] * len(support)
    for mass, atom in zip(probabilities, atoms, strict=True):
        if atom <= support[0]:
            result[0] += mass
        elif atom >= support[-1]:
            result[-1] += mass
        else:
            upper = next(k for k in range(len(support)) if support[k] > atom)
            share = (atom - support[upper - 1]) / (support[upper] - support[upper - 1])
            result[upper - 1] += mass * (1 - share)
            result[upper] += mass * share
    return result


def test_support_by_hand() -> None:
    assert categorical_support(5, 2.0).tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert categorical_support(2, 0.5).tolist() == [-0.5, 0.5]
    assert categorical_support(4, 3.0).tolist() == [-3.0, -1.0, 1.0, 3.0]


@pytest.mark.parametrize("n_bins", [2, 51, 101, 102])
def test_support_is_symmetric(n_bins: int) -> None:
    support = categorical_support(n_bins, 5.0)
    assert support.dtype == th.float32
    assert (support[0].item(), support[-1].item()) == (-5.0, 5.0)
    th.testing.assert_close(support, -support.flip(0), rtol=0, atol=1e-6)
    th.testing.assert_close(support.diff(), th.full((n_bins - 1,), 10 / (n_bins - 1)), rtol=0, atol=1e-6)


def test_expected_value_against_loops() -> None:
    probabilities = random_probabilities(N, B, K)
    values = expected_value(probabilities, SUPPORT)
    assert values.shape == (N, B)
    for i, b in itertools.product(range(N), range(B)):
        expected = sum(probabilities[i, b, k].item() * (k - 2) for k in range(K))
        assert values[i, b].item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        (0.0, [0, 0, 1, 0, 0]),
        (-1.0, [0, 1, 0, 0, 0]),
        # The ends, where one of the two neighbours would lie outside
        (-2.0, [1, 0, 0, 0, 0]),
        (2.0, [0, 0, 0, 0, 1]),
        # Half-way between two bins
        (0.5, [0, 0, 0.5, 0.5, 0]),
        (-1.5, [0.5, 0.5, 0, 0, 0]),
        (0.25, [0, 0, 0.75, 0.25, 0]),
        (-0.25, [0, 0.25, 0.75, 0, 0]),
        (1.875, [0, 0, 0, 0.125, 0.875]),
        # Beyond the ends
        (2.5, [0, 0, 0, 0, 1]),
        (-7.0, [1, 0, 0, 0, 0]),
        (1e300, [0, 0, 0, 0, 1]),
        (-1e300, [1, 0, 0, 0, 0]),
        (math.inf, [0, 0, 0, 0, 1]),
        (-math.inf, [1, 0, 0, 0, 0]),
    ],
)
def test_projection_of_one_atom(atom: float, expected: Row) -> None:
    # All mass on the third atom. The others lie elsewhere and must not count
    atoms = th.tensor([1.0, -0.3, atom, math.inf, 2.0], dtype=th.float64)
    assert categorical_projection(one_hot(2)[0], atoms, SUPPORT).tolist() == expected
    single = categorical_projection(one_hot(2)[0].float(), atoms.float(), SUPPORT.float())
    assert single.dtype == th.float32
    assert single.tolist() == expected


def test_projection_by_hand() -> None:
    # 0.1 at -3 goes to -2; 0.2 at -1.5 halves onto -2 and -1; 0.3 at 0 stays; 0.25 at 0 stays with it;
    # 0.15 at 1.2 leaves 0.12 at 1 and 0.03 at 2
    probabilities, atoms = th.tensor([0.1, 0.2, 0.3, 0.25, 0.15]), th.tensor([-3.0, -1.5, 0.0, 0.0, 1.2])
    result = categorical_projection(probabilities.double(), atoms.double(), SUPPORT)
    assert result.tolist() == pytest.approx([0.2, 0.1, 0.55, 0.12, 0.03], abs=1e-6)


@pytest.mark.parametrize("n_bins", [2, 3, 51, 101, 255])
@pytest.mark.parametrize("bound", [0.3, 5.0, 1000.0])
def test_atoms_that_do_not_move_keep_their_mass(n_bins: int, bound: float) -> None:
    support = categorical_support(n_bins, bound)
    probabilities = random_probabilities(6, n_bins).float()
    result = categorical_projection(probabilities, support, support)
    th.testing.assert_close(result, probabilities, rtol=0, atol=1e-5)
    th.testing.assert_close(result.sum(-1), th.ones(6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(K,), (B, K), (1, B, K), (N, 1, K), (N, B, K)])
def test_atoms_broadcast(shape: tuple[int, ...]) -> None:
    probabilities, atoms = random_probabilities(N, B, K), random_logits(*shape, seed=1)
    before = probabilities.clone(), atoms.clone()
    result = categorical_projection(probabilities, atoms, SUPPORT)
    assert result.shape == (N, B, K)
    rows = atoms.expand(N, B, K)
    for i, b in itertools.product(range(N), range(B)):
        expected = oracle_projection(probabilities[i, b].tolist(), rows[i, b].tolist(), SUPPORT.tolist())
        assert result[i, b].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert th.equal(probabilities, before[0]) and th.equal(atoms, before[1])


@settings(max_examples=150, deadline=None)
@given(n_bins=st.integers(2, 40), bound=st.floats(1e-3, 1e4), spread=st.floats(0, 4), seed=st.integers(0, 2**20))
@example(n_bins=34, bound=849.5741188178844, spread=1.0, seed=0)  # rounding puts the last atom beyond its bin
def test_projection_keeps_mass_and_mean(n_bins: int, bound: float, spread: float, seed: int) -> None:
    support = th.linspace(-bound, bound, n_bins, dtype=th.float64)
    probabilities = random_probabilities(6, n_bins, seed=seed)
    # Up to a spread of 0.2 or so all atoms stay inside; beyond, most leave at one of the ends
    atoms = spread * bound * random_logits(6, n_bins, seed=seed + 1)
    result = categorical_projection(probabilities, atoms, support)
    assert (result >= 0).all()
    for row, mass, places in zip(result.tolist(), probabilities.tolist(), atoms.tolist(), strict=True):
        assert sum(row) == pytest.approx(1, rel=1e-12)
        mean = sum(m * min(max(place, -bound), bound) for m, place in zip(mass, places, strict=True))
        assert sum(m * z for m, z in zip(row, support.tolist(), strict=True)) == pytest.approx(mean, abs=1e-10 * bound)
        assert row == pytest.approx(oracle_projection(mass, places, support.tolist()), abs=1e-10)


# Values by hand: 1, 0.5, -0.5 | 1, 1, 2 | 0, 0, 0.5
THREE = th.tensor(
    [
        [[0, 0, 0, 1, 0], [0, 0, 0.5, 0, 0.5], [0, 0, 1, 0, 0]],
        [[0, 0, 0.5, 0.5, 0], [0, 0, 0.5, 0, 0.5], [0.5, 0, 0, 0, 0.5]],
        [[0.25, 0, 0.75, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0.5, 0.5, 0]],
    ],
    dtype=th.float64,
)  # (N, 3, K)


@pytest.mark.parametrize(
    ("backup", "chosen"),
    [
        # (transition 1, 2, 3) of each critic's target: which critic's distribution it is
        ("vanilla", [(0, 0, 0), (1, 1, 1), (2, 2, 2)]),
        ("doubleq", [(1, 1, 1), (2, 2, 2), (0, 0, 0)]),
        # In transitions 2 and 3 the first two critics tie: the first counts
        ("min", [(2, 0, 0)] * 3),
    ],
)
def test_backups_by_hand(backup: str, chosen: list[tuple[int, ...]]) -> None:
    result = categorical_backup(backup, THREE, SUPPORT, N)
    assert result.shape == (N, 3, K)
    for i, critics in enumerate(chosen):
        for b, critic in enumerate(critics):
            assert result[i, b].tolist() == THREE[critic, b].tolist()


@pytest.mark.parametrize(
    ("subset", "chosen"),
    [([0, 1], (1, 0, 0)), ([1, 0], (1, 1, 1)), ([2, 0], (2, 0, 0)), ([1, 2], (2, 1, 1)), ([1], (1, 1, 1))],
)
def test_redq_by_hand(subset: list[int], chosen: tuple[int, ...]) -> None:
    # All three critics learn from the smaller of the subset, of which the first counts where they tie
    result = categorical_backup("redq", THREE[th.tensor(subset)], SUPPORT, N)
    expected = th.stack([THREE[critic, b] for b, critic in enumerate(chosen)])
    assert th.equal(result, expected.expand(N, 3, K))


@pytest.mark.parametrize("n_critics", [2, 3, 5])
def test_the_first_of_equal_critics_counts(n_critics: int) -> None:
    # 9 distributions with 5 different values, so most transitions have ties
    drawn = th.randint(9, (n_critics, 200), generator=th.Generator().manual_seed(0))
    values = [sum(p * (k - 2) for k, p in enumerate(row)) for row in THREE.flatten(0, 1).tolist()]
    result = categorical_backup("min", THREE.flatten(0, 1)[drawn], SUPPORT, n_critics)
    for b, critics in enumerate(drawn.T.tolist()):
        first = min(critics, key=lambda critic: values[critic])
        assert result[0, b].tolist() == THREE.flatten(0, 1)[first].tolist()


def test_mean_by_hand() -> None:
    result = categorical_backup("mean", THREE, SUPPORT, N)
    expected = [
        [0.25 / 3, 0, 1.25 / 3, 1.5 / 3, 0],
        [0, 0, 1 / 3, 0, 2 / 3],
        [0.5 / 3, 0, 1.5 / 3, 0.5 / 3, 0.5 / 3],
    ]
    th.testing.assert_close(result, th.tensor([expected] * N, dtype=th.float64))


def test_rem_by_hand() -> None:
    mixture = th.tensor([[0.5, 1.0, 0.0], [0.25, 0.0, 0.5], [0.25, 0.0, 0.5]], dtype=th.float64)
    result = categorical_backup("rem", THREE, SUPPORT, N, mixture)
    expected = [
        [0.0625, 0, 0.125 + 0.1875, 0.5 + 0.125, 0],
        [0, 0, 0.5, 0, 0.5],
        [0.25, 0, 0.25, 0.25, 0.25],
    ]
    th.testing.assert_close(result, th.tensor([expected] * N, dtype=th.float64))


def test_rem_draws_one_mixture_for_each_transition() -> None:
    # Each critic is certain of an atom of its own, so the result shows the weights
    certain = one_hot(0, 1, 2).unsqueeze(1).expand(N, B, K)
    th.manual_seed(0)
    result = categorical_backup("rem", certain, SUPPORT, N)
    th.testing.assert_close(result.sum(-1), th.ones(N, B, dtype=th.float64))
    assert (result[..., :3] > 0).all() and (result[..., 3:] == 0).all()
    assert (result == result[:1]).all()
    for first, second in itertools.combinations(range(B), 2):
        assert not th.allclose(result[0, first], result[0, second])
    assert not th.equal(result, categorical_backup("rem", certain, SUPPORT, N))


@pytest.mark.parametrize("n_critics", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("backup", TARGET_BACKUPS)
def test_mean_of_each_backup_is_the_backup_of_the_means(backup: str, n_critics: int) -> None:
    n_evaluated = min(2, n_critics) if backup == "redq" else n_critics
    probabilities = random_probabilities(n_evaluated, B, K, seed=n_critics)
    # Rows that do not sum to 1 would be no mixture
    mixture = random_probabilities(B, n_critics, seed=7).T
    result = categorical_backup(backup, probabilities, SUPPORT, n_critics, mixture)
    assert result.shape == (n_critics, B, K)
    th.testing.assert_close(result.sum(-1), th.ones(n_critics, B, dtype=th.float64))
    values = ensemble_backup(backup, expected_value(probabilities, SUPPORT), n_critics, mixture)
    th.testing.assert_close(expected_value(result, SUPPORT), values)


def test_unknown_backup() -> None:
    with pytest.raises(ValueError, match=r"median.*vanilla.*doubleq.*min.*mean.*redq.*rem"):
        categorical_backup("median", THREE, SUPPORT, N)


@pytest.mark.parametrize("n_step", [False, True])
def test_td_target_against_loops(n_step: bool) -> None:
    rewards, bonus = random_logits(B, seed=1), random_logits(B, seed=2)
    dones, steps = th.tensor([0.0, 1.0, 0.0, 0.0], dtype=th.float64), [1, 2, 3, 2]
    next_probabilities = random_probabilities(N, B, K, seed=3)
    discounts = th.tensor([0.9**k for k in steps], dtype=th.float64) if n_step else 0.9
    result = categorical_td_target(rewards, dones, discounts, next_probabilities, bonus, SUPPORT)
    assert result.shape == (N, B, K)
    for i, b in itertools.product(range(N), range(B)):
        g = 0.9 ** steps[b] if n_step else 0.9
        places = [rewards[b].item() + (0 if dones[b] else g * (k - 2 + bonus[b].item())) for k in range(K)]
        expected = oracle_projection(next_probabilities[i, b].tolist(), places, SUPPORT.tolist())
        assert result[i, b].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_td_target_by_hand() -> None:
    # Atoms -2 and 2 with 1/4 and 3/4. Transition 1: 0.5 + 0.5 (-2 + 1) = 0 and 0.5 + 0.5 (2 + 1) = 2.
    # Transition 2 is terminal: the reward 1.25. Transition 3: -1 + 0.25 (-2 + 2) = -1 and -1 + 0.25 (2 + 2) = 0
    next_probabilities = th.tensor([0.25, 0, 0, 0, 0.75]).expand(1, 3, K)
    result = categorical_td_target(
        rewards=th.tensor([0.5, 1.25, -1.0]),
        dones=th.tensor([0.0, 1.0, 0.0]),
        discounts=th.tensor([0.5, 0.5, 0.25]),
        next_probabilities=next_probabilities,
        entropy_bonus=th.tensor([1.0, 7.0, 2.0]),
        support=SUPPORT.float(),
    )
    assert result.tolist() == [[[0, 0, 0.25, 0, 0.75], [0, 0, 0, 0.75, 0.25], [0, 0.25, 0.75, 0, 0]]]


@pytest.mark.parametrize("bonus", [1e8, -1e8, -math.inf])
def test_terminal_states_ignore_the_next_distribution(bonus: float) -> None:
    rewards = th.tensor([0.5, -9.0, 1.0], dtype=th.float64)
    result = categorical_td_target(rewards, th.ones(3), 0.99, THREE, th.full((3,), bonus), SUPPORT)
    expected = th.tensor([[0, 0, 0.5, 0.5, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]], dtype=th.float64)
    th.testing.assert_close(result, expected.expand(N, 3, K))


def test_nan_passes_through_as_a_sign_of_divergence() -> None:
    bonus = th.tensor([0.0, math.nan, 0.0], dtype=th.float64)
    result = categorical_td_target(th.zeros(3), th.zeros(3), 0.99, THREE, bonus, SUPPORT)
    assert result[:, 1].isnan().any(dim=-1).all()
    assert result[:, ::2].isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_against_loops(weighted: bool) -> None:
    logits, targets = random_logits(N, B, K, seed=1).requires_grad_(), random_probabilities(N, B, K, seed=2)
    weights = th.tensor([0.5, 2.0, 0.0, 1.0], dtype=th.float64) if weighted else None
    loss = categorical_critic_loss(logits, targets, weights)
    loss.backward()
    expected = 0.0
    for i, b in itertools.product(range(N), range(B)):
        weight = weights[b].item() if weighted else 1.0
        scores = logits[i, b].tolist()
        normalizer = sum(math.exp(score) for score in scores)
        for k in range(K):
            softmax, target = math.exp(scores[k]) / normalizer, targets[i, b, k].item()
            expected -= weight * target * math.log(softmax) / B
            # The number of critics is not in it
            assert logits.grad[i, b, k].item() == pytest.approx(weight * (softmax - target) / B, abs=1e-14)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_loss_of_large_logits_is_finite() -> None:
    # log softmax = (0, -1000): an exponential would overflow
    loss = categorical_critic_loss(th.tensor([[[1000.0, 0.0]]]), th.tensor([[[0.5, 0.5]]]))
    assert loss.item() == pytest.approx(500)


@pytest.mark.parametrize("shape", [(1, B, K), (N, 1, K), (N, B, 1), (B, K), (B, N, K), (K,), ()])
def test_loss_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        categorical_critic_loss(random_logits(N, B, K), th.zeros(shape, dtype=th.float64))


@pytest.mark.parametrize("shape", [(B, 1), (1,), (N,), (N, B), (K,), ()])
def test_weights_of_another_shape_do_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="weights"):
        categorical_critic_loss(random_logits(N, B, K), random_probabilities(N, B, K), th.ones(shape))
