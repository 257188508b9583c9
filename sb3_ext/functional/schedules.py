"""Values that change with the progress of the training."""


def falling_n_steps(first: int, last: int, fraction: float, progress_remaining: float) -> int:
    """
    Return the steps of n-step returns, which fall exponentially from ``first`` to ``last``, as in Rainbow's successors.

    SR-SPR and BBF (https://arxiv.org/abs/2305.19452) and BTR (https://arxiv.org/abs/2411.03820) begin with 10 steps and
    end with 3: long returns spread rewards sooner, short ones have less bias.

    :param fraction: part of the training after which ``last`` is reached, in (0, 1]
    :param progress_remaining: 1 at the beginning of the training, 0 at its end
    """
    done = min((1.0 - progress_remaining) / fraction, 1.0)
    return round(first * (last / first) ** done)
