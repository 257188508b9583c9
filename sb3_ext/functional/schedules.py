"""Values that change with the progress of the training."""


def falling_n_steps(first: int, last: int, fraction: float, progress_remaining: float) -> int:
    """
    Return the steps of n-step returns, which fall exponentially from ``first`` to ``last``.

    BBF (https://arxiv.org/abs/2305.19452) goes from 10 steps to 3, after each of its resets. Long returns spread
    rewards sooner, short ones have less bias.

    :param fraction: part of the training after which ``last`` is reached, in (0, 1]
    :param progress_remaining: 1 at the beginning of the training, 0 at its end
    """
    done = min((1.0 - progress_remaining) / fraction, 1.0)
    return round(first * (last / first) ** done)
