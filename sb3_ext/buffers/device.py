"""A replay buffer whose data lie where the networks are."""

import warnings
from typing import Any

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

# Of the device's free memory; the rest is for networks and their activations
_LARGEST_SHARE = 0.5


class DeviceReplayBuffer(ReplayBuffer):
    """
    SB3's ``ReplayBuffer`` with a copy of its data on the model's device, from which minibatches are gathered: a block
    of them costs two small copies of indices instead of all its observations.

    It draws the same samples as SB3's from the same random state. (float64 observations arrive as float32, to which
    SB3's networks convert them anyway.) Where the copy needs more than half of the device's free memory, or with
    ``VecNormalize``, samples come from the host as in SB3. Files are SB3's size: the copy is not saved.
    Transitions come in through ``add``: what is written into the arrays by hand is not seen.

    :param buffer_size: maximum number of transitions
    :param observation_space: of one environment, no ``Dict``
    :param action_space: of one environment
    :param device: of the copy and of the samples
    :param n_envs: number of environments
    :param optimize_memory_usage: not with this buffer
    :param handle_timeout_termination: as in SB3
    :raises ValueError: for ``optimize_memory_usage`` or a ``Dict`` space
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True is not allowed with DeviceReplayBuffer, only False")
        if isinstance(observation_space, spaces.Dict):
            raise ValueError("observation_space=Dict is not allowed with DeviceReplayBuffer: use DictReplayBuffer")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )
        self._n_added = 0
        self._forget_copy()

    def _forget_copy(self) -> None:
        # `None`: not made yet, empty: does not fit
        self._copy: dict[str, th.Tensor] | None = None
        self._n_copied = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copy": None, "_n_copied": 0}

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)
        self._n_added += 1

    def reset(self) -> None:
        super().reset()
        self._n_added = 0
        self._forget_copy()

    def _rows(self, name: str, slots: slice) -> th.Tensor:
        """
        :param name: of a field of the samples
        :param slots: a range of them
        :return: shape (slots, n_envs, ...), as samples have it
        """
        rows = getattr(self, name)[slots]
        if name == "dones":
            rows = rows * (1 - self.timeouts[slots])
        tensor = th.as_tensor(rows)
        return tensor.float() if tensor.dtype == th.float64 else tensor

    def _free_memory(self) -> float:
        """
        :return: bytes
        """
        return th.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else psutil.virtual_memory().available

    def _make_copy(self) -> dict[str, th.Tensor]:
        names = ReplayBufferSamples._fields[:5]
        first = {name: self._rows(name, slice(0, 1)) for name in names}
        needed = sum(tensor.nbytes for tensor in first.values()) * self.buffer_size
        allowed = _LARGEST_SHARE * self._free_memory()
        if needed > allowed:
            return self._stay_on_the_host(
                f"{needed / 1e9:.3g} GB are more than the {allowed / 1e9:.3g} GB that it may take on {self.device}"
            )
        try:
            return {
                name: th.empty((self.buffer_size, *tensor.shape[1:]), dtype=tensor.dtype, device=self.device)
                for name, tensor in first.items()
            }
        except th.OutOfMemoryError as error:  # free, but in pieces, or another process was faster
            return self._stay_on_the_host(str(error))

    def _stay_on_the_host(self, reason: str) -> dict[str, th.Tensor]:
        warnings.warn(f"the replay buffer stays on the host: {reason}", stacklevel=2)
        return {}

    def _bring_up_to_date(self) -> dict[str, th.Tensor]:
        """
        :return: the copy, with all that was added since the last time; empty if there is no room for it
        """
        if self._copy is None:
            self._copy = self._make_copy()
        n_new = min(self._n_added - self._n_copied, self.buffer_size)
        first = (self.pos - n_new) % self.buffer_size
        end = first + n_new
        for slots in (slice(first, min(end, self.buffer_size)), slice(0, max(end - self.buffer_size, 0))):
            for name, tensor in self._copy.items():
                tensor[slots].copy_(self._rows(name, slots), non_blocking=True)
        self._n_copied = self._n_added
        return self._copy

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        copy = self._bring_up_to_date() if env is None else {}
        if not copy:
            return super()._get_samples(batch_inds, env)
        # As the parent draws and orders them
        envs = np.random.randint(0, high=self.n_envs, size=len(batch_inds))
        rows = th.as_tensor(batch_inds * self.n_envs + envs, device=self.device)
        fields = {name: tensor.flatten(end_dim=1).index_select(0, rows) for name, tensor in copy.items()}
        for name in ("dones", "rewards"):
            fields[name] = fields[name].unsqueeze(1)
        return ReplayBufferSamples(**fields)
