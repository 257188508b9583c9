"""A model of SB3's ``SAC`` as a ``REDQSAC`` that goes on as SAC would."""

import copy
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.sac import policies as sac_policies

from sb3_ext.redq_sac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, REDQSACPolicy
from sb3_ext.redq_sac.redq_sac import REDQSAC

_POLICIES: Mapping[type, type[REDQSACPolicy]] = MappingProxyType(
    {
        sac_policies.SACPolicy: MlpPolicy,
        sac_policies.CnnPolicy: CnnPolicy,
        sac_policies.MultiInputPolicy: MultiInputPolicy,
    }
)
# A parameter of one of SB3's critics, as in "qf1.0.weight" or "critic.qf1.0.weight"
_SEPARATE = re.compile(r"(?P<prefix>^|.*\.)qf(?P<member>\d+)\.(?P<layer>\d+\.(weight|bias))$")


def from_sac(sac: SAC) -> REDQSAC:
    """
    Make a ``REDQSAC`` of a model of SB3's ``SAC``, for example of a loaded one: ``from_sac(SAC.load(path, env=env))``.

    It has SAC's networks, states of the optimizers, temperature, environment, counters and replay buffer, which the two
    models share. Its settings are those with which REDQ is SAC: ``target_backup="min"``, ``actor_q="min"`` and
    ``policy_delay=1``. Saved and loaded with other settings it continues as REDQ: ``REDQSAC.load(path,
    target_backup="redq", actor_q="mean")``. The number of critics stays.

    :raises ValueError: if the model is not SB3's own ``SAC`` with a policy of SB3
    """
    if type(sac) is not SAC or sac.policy_class not in _POLICIES:
        raise ValueError(
            f"sac={type(sac).__name__} with the policy {sac.policy_class.__name__}: only SB3's own SAC with MlpPolicy, "
            "CnnPolicy or MultiInputPolicy can become a REDQSAC"
        )
    policy_class = _POLICIES[sac.policy_class]
    model = REDQSAC(policy_class, env=sac.env, device=sac.device, _init_setup_model=False)  # type: ignore[arg-type]
    vars(model).update(_saved_attributes(sac))
    model.policy_class, model._vec_normalize_env = policy_class, sac._vec_normalize_env
    model.policy_kwargs = {**sac.policy_kwargs, "n_critics": len(sac.critic.q_networks)}
    # The class is chosen again, so that `load(n_steps=...)` can change it. One that SB3 would not choose stays
    model._chose_buffer_class = True
    kwargs = sac.replay_buffer_kwargs
    model.replay_buffer_kwargs = {name: value for name, value in kwargs.items() if name not in ("n_steps", "gamma")}
    model.target_backup, model.actor_q, model.policy_delay = "min", "min", 1
    if sac.gradient_steps == 1:
        model.target_update_interval = 1  # SAC counts within one call of `train()`, and moves the targets each time
    model._setup_model()
    model.set_parameters(_converted_parameters(sac, model), device=sac.device)
    if sac.log_ent_coef is not None and model.log_ent_coef is not None:
        model.log_ent_coef.data = sac.log_ent_coef.data.clone()
    model.replay_buffer = sac.replay_buffer
    if model.use_sde:
        model.policy.reset_noise()
    return model


def _saved_attributes(sac: SAC) -> dict[str, Any]:
    """Return the attributes that SB3 would save with the model, apart from tensors."""
    state_dicts, variables = sac._get_torch_save_params()
    left_out = {name.split(".")[0] for name in state_dicts + variables}.union(sac._excluded_save_params())
    return {name: value for name, value in vars(sac).items() if name not in left_out}


def _converted_parameters(sac: SAC, model: REDQSAC) -> dict[str, Any]:
    """Return the state dictionaries of a SAC with those of its critics stacked, as ``model`` has them."""
    parameters = copy.deepcopy(sac.get_parameters())  # optimizers share what they are given
    parameters["policy"] = _stack(parameters["policy"], _stacked_tensor)
    names, stacked_names = (_optimized_names(critic) for critic in (sac.critic, model.critic))
    states = parameters["critic.optimizer"]["state"]
    if states:
        by_name = _stack({name: states[index] for index, name in enumerate(names)}, _stacked_state)
        states = {index: by_name[name] for index, name in enumerate(stacked_names)}
    groups = model.critic.optimizer.state_dict()["param_groups"]
    parameters["critic.optimizer"] = {"state": states, "param_groups": groups}
    return parameters


def _optimized_names(critic: Any) -> list[str]:
    """Return the names of a critic's parameters in the order of its optimizer, which leaves out a shared extractor."""
    optimized = {id(parameter) for group in critic.optimizer.param_groups for parameter in group["params"]}
    return [name for name, parameter in critic.named_parameters() if id(parameter) in optimized]


def _stack(values: Mapping[str, Any], join: Callable[[str, list[Any]], Any]) -> dict[str, Any]:
    """Join the values of the same parameter of all critics under its name in the ensemble. Others stay."""
    result: dict[str, Any] = {}
    members: dict[str, list[Any]] = {}
    for name, value in values.items():
        found = _SEPARATE.match(name)
        if found is None:
            result[name] = value
        else:
            members.setdefault(f"{found['prefix']}ensemble.layers.{found['layer']}", []).append(value)
    return result | {name: join(name, parts) for name, parts in members.items()}


def _stacked_tensor(name: str, parts: list[th.Tensor]) -> th.Tensor:
    """Stack weights of shape (out, in) to (N, in, out), and biases of shape (out,) to (N, 1, out)."""
    if name.endswith("weight"):
        return th.stack([part.T for part in parts])
    return th.stack(parts).unsqueeze(1)


def _stacked_state(name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack what an optimizer keeps for each parameter; a number of steps is the same for all critics."""
    result = {}
    for key, first in parts[0].items():
        has_elements = isinstance(first, th.Tensor) and first.ndim > 0
        result[key] = _stacked_tensor(name, [part[key] for part in parts]) if has_elements else first
    return result
