"""A learning rate that falls when the evaluations stop improving."""

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_ext.callbacks.nested import all_callbacks
from sb3_ext.checks import check_integer, check_interval
from sb3_ext.schedules import Scaled


class ReduceLearningRateOnPlateau(BaseCallback):
    """
    Lowers the learning rate of any model of SB3 when the mean return of its evaluations has not risen for a while.

    It needs an ``EvalCallback`` in the same run, such as rl_zoo3's, and checks each of its evaluations. The lower rate
    is saved with the model, so ``min_factor`` holds for all trainings of a model together. The best mean return and the
    count of evaluations begin anew. (rl_zoo3's ``-i`` gives the model the rate of the YAML file again.)
    ``train/learning_rate_factor`` is logged. In YAML files::

        callback:
          - sb3_ext.callbacks.ReduceLearningRateOnPlateau: {patience: 5}

    :param factor: what the learning rate is multiplied by, in (0, 1)
    :param patience: evaluations without a new best mean return after which it is, at least 1
    :param min_delta: how far a mean return must exceed the best one to count, >= 0
    :param min_factor: the product of all factors stays at or above it, in [0, 1)
    :param verbose: 1: a line for each change
    :raises ValueError: naming the argument, its value and what is allowed; also when training begins without an
        ``EvalCallback``, or with ``learning_rate_final``, which lowers the learning rate itself
    """

    def __init__(
        self,
        factor: float = 0.5,
        patience: int = 5,
        min_delta: float = 0.0,
        min_factor: float = 0.01,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_interval("factor", factor, np.finfo(np.float64).tiny, 1 - 1e-9, "in (0, 1)")
        check_integer("patience", patience, minimum=1)
        check_interval("min_delta", min_delta, 0.0, np.finfo(np.float64).max, "a number >= 0")
        check_interval("min_factor", min_factor, 0.0, 1 - 1e-9, "in [0, 1)")
        self.factor, self.patience, self.min_delta, self.min_factor = factor, patience, min_delta, min_factor
        self.best_mean_reward = -np.inf
        self.n_without_improvement = 0
        #: What the learning rate is multiplied by now, earlier trainings included
        self.total_factor = 1.0
        self._n_seen = 0
        self._evaluation: EvalCallback | None = None

    def _on_training_start(self) -> None:
        found = [each for each in all_callbacks(self.locals.get("callback")) if isinstance(each, EvalCallback)]
        if not found:
            raise ValueError(
                "ReduceLearningRateOnPlateau needs an EvalCallback in the same list, whose evaluations it looks at"
            )
        final = getattr(self.model, "learning_rate_final", None)
        if final is not None:
            raise ValueError(
                f"ReduceLearningRateOnPlateau with learning_rate_final={final}: both lower "
                "the learning rate, so only one of them is allowed"
            )
        rate = getattr(self.model, "learning_rate", None)
        self.total_factor = rate.factor if isinstance(rate, Scaled) else 1.0
        self._evaluation = found[0]
        self._n_seen = self._evaluation.n_calls // max(self._evaluation.eval_freq, 1)

    def _on_step(self) -> bool:
        evaluation = self._evaluation
        assert evaluation is not None
        # It may evaluate after this callback in the same step. That is seen in the next one
        n_done = evaluation.n_calls // evaluation.eval_freq if evaluation.eval_freq > 0 else 0
        if n_done > self._n_seen:
            self._n_seen = n_done
            self._judge(float(evaluation.last_mean_reward))
        return True

    def _judge(self, mean_reward: float) -> None:
        if mean_reward > self.best_mean_reward + self.min_delta:
            self.best_mean_reward, self.n_without_improvement = mean_reward, 0
            return
        self.n_without_improvement += 1
        if self.n_without_improvement < self.patience:
            return
        self.n_without_improvement = 0
        factor = max(self.factor, self.min_factor / self.total_factor)
        if factor < 1.0:
            self._lower(factor)

    def _lower(self, factor: float) -> None:
        self.total_factor *= factor
        # Not the derived schedules alone, which no file contains
        for name in ("learning_rate", "qf_learning_rate"):  # REDQSAC may have the second
            if getattr(self.model, name, None) is not None:
                setattr(self.model, name, Scaled(getattr(self.model, name), factor))
        self.model._setup_lr_schedule()
        self.logger.record("train/learning_rate_factor", self.total_factor)
        if self.verbose > 0:
            print(f"The learning rate is multiplied by {factor:g} at {self.num_timesteps} time steps")
