"""REDQ's update as recordings for a GPU (CUDA graphs), in a wrapper that leaves the update unchanged."""

import warnings
from collections.abc import Callable
from functools import partial

import torch as th

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.nets.modes import named_tensors
from sb3_ext.redq_sac.plan import BlockResult, Plan
from sb3_ext.redq_sac.update import REDQUpdate
from sb3_ext.speed.recording import GraphedWork, Recorder


class RecordedUpdate:
    """
    Runs blocks of updates by recordings where possible, and without them elsewhere.

    A recording repeats kernels at the same addresses, and runs no Python code. So each plan and each value of the
    settings has a recording. All recordings are renewed when parameters or optimizers have moved in memory.
    """

    def __init__(self, update: REDQUpdate, make_recorder: Callable[[], Recorder]) -> None:
        self._update = update
        self._work = GraphedWork(make_recorder)

    def run(self, plan: Plan, replay_data: AnySamples) -> BlockResult:
        """Do the same as :meth:`~sb3_ext.redq_sac.update.REDQUpdate.run`."""
        parameters, buffers = (list(named.values()) for named in named_tensors(self._update.policy))
        frozen = tuple(not parameter.requires_grad for parameter in parameters)
        key = (plan, self._update.settings, self._optimizer_settings(), frozen, self._modules())
        addresses = self._addresses([*parameters, *buffers])
        return self._work.run(key, addresses, partial(self._update.run, plan), replay_data)

    def _optimizer_settings(self) -> tuple[tuple[str, object], ...]:
        groups = [group for optimizer in self._update.optimizers() for group in optimizer.param_groups]
        return tuple((name, value) for group in groups for name, value in group.items() if name not in ("params", "lr"))

    def _modules(self) -> tuple[tuple[th.nn.Module, str], ...]:
        """Return all modules with what they print, such as a dropout rate: an activation has no address to change."""
        return tuple((module, module.extra_repr()) for module in self._update.policy.modules())

    def _addresses(self, tensors: list[th.Tensor]) -> tuple[int, ...]:
        """
        Return the addresses of all tensors that an update reads or changes, except its samples.

        :param tensors: those of the policy
        """
        update = self._update
        tensors += [
            tensor for tensor in (update.temperature.log_ent_coef, update.temperature.fixed) if tensor is not None
        ]
        for optimizer in update.optimizers():
            tensors += [group["lr"] for group in optimizer.param_groups]
            tensors += [value for state in optimizer.state.values() for value in state.values()]
        return tuple(tensor.data_ptr() for tensor in tensors if isinstance(tensor, th.Tensor))


def recorded_where_possible(update: REDQUpdate, make_recorder: Callable[[], Recorder] | None) -> RecordedUpdate | None:
    """
    Wrap an update in recordings, or return ``None`` where that is impossible or not requested.

    Settings that prevent recordings cause a warning.
    """
    if make_recorder is None:
        return None
    obstacle = _obstacle_to_recording(update)
    if obstacle is not None:
        warnings.warn(f"training goes on without CUDA graphs, because of {obstacle}", stacklevel=2)
        return None
    return RecordedUpdate(update, make_recorder)


def _obstacle_to_recording(update: REDQUpdate) -> str | None:
    """Name the setting that depends on values a recording cannot read; ``None`` if there is none."""
    if update.settings.use_sde:
        return "use_sde=True"
    if update.settings.target_backup == "redq" and update.settings.subset_size % 1:
        return f"subset_size={update.settings.subset_size}: the number of critics varies"
    for optimizer in update.optimizers():
        if "capturable" not in optimizer.param_groups[0]:
            return f"optimizer_class={type(optimizer).__name__}"
    return None


def set_learning_rates(
    optimizers: list[th.optim.Optimizer], set_floats: Callable[[], None], device: th.device, is_recorded: bool
) -> None:
    """
    Set learning rates; for recordings in tensors that stay at their addresses, because recordings read them there.

    :param set_floats: sets the rates as floats, as SB3 does
    :param is_recorded: whether updates are recorded
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    set_floats()
    for group, before in zip(groups, rates, strict=True):
        if "capturable" in group:
            group["capturable"] = is_recorded and device.type == "cuda"
        if is_recorded:
            # Reuse the tensor if there already is one
            is_ours = isinstance(before, th.Tensor) and before.device == device
            rate = before if is_ours else th.empty((), device=device)
            group["lr"] = rate.fill_(group["lr"])
