"""Values of the next state in Q-learning, worked out by hand. B = 4 states, A = 3 actions."""

import torch as th

from sb3_ext.functional.q_learning import double_q_learning, q_learning

NEXT_Q = th.tensor([[1.0, 3.0, 2.0], [-1.0, -3.0, -2.0], [0.0, 5.0, 7.0], [4.0, -4.0, 0.0]])
SELECTOR_Q = th.tensor([[9.0, 8.0, 7.0], [-9.0, 0.0, -1.0], [0.0, 0.1, 0.2], [0.0, -1.0, 6.0]])


def test_q_learning_takes_the_best_action() -> None:
    assert q_learning(NEXT_Q).tolist() == [3.0, -1.0, 7.0, 4.0]


def test_double_q_learning_values_the_selectors_best_action() -> None:
    assert double_q_learning(NEXT_Q, SELECTOR_Q).tolist() == [1.0, -3.0, 7.0, 0.0]


def test_with_one_network_for_both_they_are_the_same() -> None:
    assert th.equal(double_q_learning(NEXT_Q, NEXT_Q), q_learning(NEXT_Q))


def test_no_gradient_reaches_the_selector() -> None:
    next_q, selector_q = NEXT_Q.clone().requires_grad_(), SELECTOR_Q.clone().requires_grad_()
    double_q_learning(next_q, selector_q).sum().backward()
    assert selector_q.grad is None
    assert next_q.grad.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
