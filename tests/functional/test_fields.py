"""Named tuples of tensors, taken as a whole."""

from typing import NamedTuple

import torch as th

from sb3_ext.functional.fields import map_fields, tensors_of


class Samples(NamedTuple):
    observations: dict[str, th.Tensor]
    rewards: th.Tensor
    discounts: th.Tensor | None


SAMPLES = Samples({"b": th.ones(2, 3), "a": th.ones(2, 5)}, th.ones(2, 1), None)


def test_every_tensor_is_replaced_and_nothing_else() -> None:
    doubled = map_fields(lambda tensor: 2 * tensor, SAMPLES)
    assert type(doubled) is Samples and doubled.discounts is None
    assert list(doubled.observations) == ["b", "a"]
    assert th.equal(doubled.observations["b"], th.full((2, 3), 2.0))
    assert th.equal(doubled.observations["a"], th.full((2, 5), 2.0))
    assert th.equal(doubled.rewards, th.full((2, 1), 2.0))
    # The samples themselves are as before
    assert all(th.equal(tensor, th.ones_like(tensor)) for tensor in tensors_of(SAMPLES))


def test_tensors_come_in_the_order_of_fields_and_keys() -> None:
    tensors = tensors_of(SAMPLES)
    assert [tuple(tensor.shape) for tensor in tensors] == [(2, 3), (2, 5), (2, 1)]
    assert tensors[0] is SAMPLES.observations["b"] and tensors[2] is SAMPLES.rewards
    assert tensors_of(SAMPLES._replace(discounts=SAMPLES.rewards))[-1] is SAMPLES.rewards
    assert tensors_of(()) == []
