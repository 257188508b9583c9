"""What a training has made of a model, compared."""

from pathlib import Path
from typing import Any

import numpy as np
import torch as th


def state(model: Any) -> dict[str, th.Tensor]:
    """Every number that training changes."""
    tensors = dict(model.policy.state_dict())
    parts = ("actor", "critic") if hasattr(model, "actor") else ("policy",)
    optimizers = {part: getattr(model, part).optimizer for part in parts}
    # Those of REDQSAC and of SoftDQN, which may be learned
    for name, tensor in (("ent_coef", "log_ent_coef"), ("temperature", "log_temperature")):
        if getattr(model, tensor, None) is not None:
            optimizers[name] = getattr(model, f"{name}_optimizer")
            tensors[tensor] = getattr(model, tensor).detach()
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{slot}": th.as_tensor(value) for slot, value in slots.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(actual: dict[str, th.Tensor], expected: dict[str, th.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert th.equal(actual[name], value), name


def assert_close(actual: dict[str, th.Tensor], expected: dict[str, th.Tensor], tolerance: float) -> None:
    """
    :param tolerance: absolute and relative
    """
    assert actual.keys() == expected.keys() and len(actual) > 0
    for name, value in expected.items():
        th.testing.assert_close(actual[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_training(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Two models that have learned, with as many updates, the same networks."""
    assert actual._n_updates == expected._n_updates > 0
    assert_close(dict(actual.policy.state_dict()), dict(expected.policy.state_dict()), tolerance)


def reloaded(model: Any, folder: Path) -> Any:
    """The model from a file, with its replay buffer from another one."""
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    loaded = type(model).load(folder / "model")
    loaded.load_replay_buffer(folder / "buffer")
    loaded.set_logger(model.logger)
    return loaded


def assert_trained_alike(model: Any, loaded: Any, n_updates: int) -> None:
    """Both make the same of further updates with the same random numbers."""
    for each in (model, loaded):
        np.random.seed(7)
        th.manual_seed(7)
        each.train(n_updates, batch_size=16)
    assert_equal(state(loaded), state(model))
