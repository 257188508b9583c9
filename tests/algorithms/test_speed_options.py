"""REDQSAC compiled, in lower precision, recorded: the same training as the plain one."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext import REDQSAC, DeviceReplayBuffer, PrioritizedReplayBuffer
from sb3_ext.nets import ChannelsLastCNN
from sb3_ext.redq_sac.policies import gaussian_parameters
from sb3_ext.redq_sac.update import REDQUpdate
from sb3_ext.speed import recording
from sb3_ext.speed.compilation import LossGradients, compiled_or_plain
from sb3_ext.speed.evaluation import NetworkEvaluator


class Tape:
    """
    What a CUDA graph does, on a CPU: recording does nothing, replaying does what was recorded, whatever Python says by
    then. (On a GPU the kernels are recorded; here the function, whose inputs and outputs are the recording's tensors.)
    """

    def __init__(self) -> None:
        self.warm_ups = self.records = self.replays = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.records += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay


class Recorded(REDQSAC):
    """REDQSAC as on a GPU, with a :class:`Tape` for CUDA."""

    def _recorder_maker(self) -> Callable[[], Tape] | None:
        self.tape = tape = Tape()
        return (lambda: tape) if self.cuda_graphs else None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "tape"]


def make(cls: type[REDQSAC] = REDQSAC, policy: str = "MlpPolicy", env: Any = "Pendulum-v1", **kwargs: Any) -> Any:
    defaults: dict[str, Any] = dict(
        cuda_graphs=True,
        buffer_device="auto",
        learning_starts=20,
        seed=0,
        batch_size=8,
        device="cpu",
        buffer_size=500,
        policy_kwargs=dict(net_arch=[8]),
    )
    return cls(policy, env, **{**defaults, **kwargs})


def assert_close(actual: REDQSAC, expected: REDQSAC, atol: float = 1e-5) -> None:
    assert actual._n_updates == expected._n_updates > 0
    states = actual.policy.state_dict(), expected.policy.state_dict()
    for name, value in states[1].items():
        th.testing.assert_close(states[0][name], value, rtol=atol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


VARIANTS: list[dict[str, Any]] = [
    {},
    dict(ent_coef=0.2, backup_entropy=False),
    dict(gradient_steps=7, policy_delay=3, target_update_interval=2),
    dict(learning_rate_final=1e-5, learning_rate=1e-3),
    dict(actor_gradient="reinforce", n_actor_samples=3),
    dict(target_backup="rem"),
    dict(policy_kwargs=dict(net_arch=[8], dropout=0.2, layer_norm=True, n_critics=2)),
    dict(replay_buffer_class=PrioritizedReplayBuffer),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_recorded_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    plain, recorded = make(**variant).learn(60), make(Recorded, **variant).learn(60)
    # A recorded learning rate is a float32 tensor, so that it can change: rounding, for Adam's many updates
    assert_close(recorded, plain)
    tape = recorded.tape
    assert tape.replays > 0 and tape.records <= recording._MAX_RECORDINGS
    n_blocks = 40 if "gradient_steps" not in variant else None
    if n_blocks is not None:
        assert (tape.warm_ups, tape.records, tape.replays) == (3, 1, n_blocks - 3)
    names = set(plain.logger.name_to_value)
    assert names == set(recorded.logger.name_to_value)
    for name in names:
        if name.startswith("train/"):
            values = [model.logger.name_to_value[name] for model in (plain, recorded)]
            assert values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-4), name


def test_recorded_images_and_dictionaries() -> None:
    images = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False)
    images.observation_space.seed(0)
    kwargs = dict(policy_kwargs=dict(net_arch=[8], features_extractor_kwargs=dict(features_dim=8)))
    # The blocks of a GPU are longer than a CPU's for large observations, but not with 8 images of 40 x 40
    plain, recorded = (
        make(cls, "CnnPolicy", copy.deepcopy(images), gradient_steps=3, policy_delay=3, **kwargs).learn(30)
        for cls in (REDQSAC, Recorded)
    )
    assert_close(recorded, plain)
    assert recorded.tape.replays > 0
    dictionaries = SimpleMultiObsEnv(discrete_actions=False)
    plain, recorded = (
        make(cls, "MultiInputPolicy", copy.deepcopy(dictionaries), gradient_steps=2, policy_delay=2).learn(30)
        for cls in (REDQSAC, Recorded)
    )
    assert_close(recorded, plain)
    assert recorded.tape.replays > 0


def test_recordings_end_with_what_they_were_made_of(tmp_path: Path) -> None:
    """Loading, other parameters, another batch size, another tau, a copy: all train as a model without recordings."""
    models = [make(cls).learn(40) for cls in (REDQSAC, Recorded)]
    for model in models:
        model.save(tmp_path / type(model).__name__)
    loaded = [
        cls.load(tmp_path / cls.__name__, env=model.env) for cls, model in zip((REDQSAC, Recorded), models, strict=True)
    ]
    for model, again in zip(models, loaded, strict=True):
        again.replay_buffer = copy.deepcopy(model.replay_buffer)
        again.set_logger(model.logger)
    stages: list[Callable[[REDQSAC], Any]] = [
        lambda model: model.set_parameters(tmp_path / type(model).__name__),
        lambda model: setattr(model, "batch_size", 5),
        lambda model: setattr(model, "tau", 0.5),
        lambda model: setattr(model, "gamma", 0.5),
    ]
    for pair in (loaded, models):
        for stage in stages:
            for model in pair:
                stage(model)
                th.manual_seed(1)
                np.random.seed(1)
                for _ in range(6):
                    model.train(20, model.batch_size)
            assert_close(pair[1], pair[0], atol=1e-4)
    assert isinstance(loaded[1], Recorded) and loaded[1].tape.replays > 0
    assert models[1].tape.records >= 4


def test_recordings_go_on_until_an_address_changes() -> None:
    plain, recorded = make(gradient_steps=5, policy_delay=5), make(Recorded, gradient_steps=5, policy_delay=5)
    tape = recorded.tape

    def both(stage: Callable[[REDQSAC], Any]) -> tuple[int, int]:
        before = tape.records, tape.replays
        for model in (plain, recorded):
            th.manual_seed(1)
            np.random.seed(1)
            stage(model)
        assert_close(recorded, plain, atol=1e-4)
        return tape.records - before[0], tape.replays - before[1]

    def train(model: REDQSAC) -> None:
        for _ in range(6):
            model.train(5, 8)

    def with_a_new_optimizer(model: REDQSAC) -> None:
        model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=1e-2)
        train(model)

    def with_other_momentum(model: REDQSAC) -> None:
        model.actor.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
        train(model)

    def with_another_temperature(model: REDQSAC) -> None:
        model.log_ent_coef = th.zeros(1, requires_grad=True)
        model.ent_coef_optimizer = th.optim.Adam([model.log_ent_coef], lr=3e-4)
        train(model)

    assert both(lambda model: model.learn(40)) == (1, 17)
    # The same model goes on: in `learn()` and in `train()`
    assert both(lambda model: model.learn(10, reset_num_timesteps=False)) == (0, 10)
    assert both(train) == (0, 6)
    for stage in (with_a_new_optimizer, with_other_momentum, with_another_temperature):
        assert both(stage) == (1, 3), stage.__name__
        assert both(train) == (0, 6)
    recorded.actor_q = plain.actor_q = "min"
    assert both(train) == (1, 3)


def test_a_copy_of_a_model_trains_itself() -> None:
    model = make(Recorded).learn(40)
    before = copy.deepcopy(model.policy.state_dict())
    duplicate = copy.deepcopy(model)
    for _ in range(5):
        duplicate.train(20, 8)
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert not th.equal(duplicate.critic.ensemble.layers[0].weight, before["critic.ensemble.layers.0.weight"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (dict(use_sde=True), "use_sde=True"),
        (dict(subset_size=1.5), "subset_size=1.5: the number of critics varies"),
        (dict(policy_kwargs=dict(net_arch=[8], optimizer_class=th.optim.SGD)), "optimizer_class=SGD"),
    ],
    ids=str,
)
def test_what_cannot_be_recorded_is_said_once(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"training goes on without CUDA graphs, because of {reason}") as caught:
        model = make(Recorded, **settings).learn(30)
    assert len([w for w in caught if "CUDA graphs" in str(w.message)]) == 1
    assert model.tape.warm_ups == 0 and model._n_updates > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(Recorded, **{**settings, "cuda_graphs": False})
        make(REDQSAC, **settings)


def test_a_recording_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Tape, work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Tape, "record", failing)
    with pytest.warns(UserWarning, match="without CUDA graphs, which failed: operation not permitted") as caught:
        recorded = make(Recorded).learn(40)
    assert len(caught) == 1
    assert_close(recorded, make().learn(40))


def test_errors_of_the_work_itself_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(Recorded)

    def broken(*args: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(REDQUpdate, "step_critics", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.learn(30)


def test_only_so_many_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MAX_RECORDINGS", 2)
    settings = dict(gradient_steps=7, policy_delay=20)
    plain, recorded = make(**settings).learn(90), make(Recorded, **settings).learn(90)
    assert_close(recorded, plain)
    assert recorded.tape.records == 2


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """As in a new process: PyTorch stops compiling a function that was compiled too often."""
    th.compiler.reset()
    yield
    th.compiler.reset()


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch, fresh_compiler: None) -> None:
    """All of `torch.compile` but the C++ code at its end, which takes most of the time."""
    compile_really = th.compile
    monkeypatch.setattr(
        th, "compile", lambda function, **kwargs: compile_really(function, backend="aot_eager", **kwargs)
    )


@pytest.fixture
def no_excuses() -> Iterator[None]:
    """What cannot be compiled is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True has no effect")
        yield


@pytest.mark.usefixtures("fresh_compiler", "no_excuses")
@pytest.mark.parametrize("variant", [{}, dict(actor_gradient="reinforce", n_actor_samples=2)], ids=str)
def test_compiled_updates_are_the_plain_ones(variant: dict[str, Any], tmp_path: Path) -> None:
    compiled = make(compile=True, **variant).learn(24)
    assert_close(compiled, make(**variant).learn(24), atol=1e-4)
    compiled.save(tmp_path / "model")
    assert REDQSAC.load(tmp_path / "model").compile


class BatchNormExtractor(FlattenExtractor):
    """Has buffers that its forward pass changes."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.normalize = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.normalize(super().forward(observations))


IMAGES = dict(policy="CnnPolicy", env="images", gradient_steps=2, policy_delay=2)
SMALL_CNN = dict(net_arch=[8], features_extractor_kwargs=dict(features_dim=8))


@pytest.mark.usefixtures("traced_only", "no_excuses")
@pytest.mark.parametrize(
    "variant",
    [
        dict(target_backup="rem"),
        dict(target_backup="doubleq", n_steps=3),
        dict(replay_buffer_class=PrioritizedReplayBuffer),
        dict(**IMAGES, policy_kwargs=SMALL_CNN),
        dict(**IMAGES, policy_kwargs=dict(**SMALL_CNN, share_features_extractor=True)),
        dict(**IMAGES, policy_kwargs=dict(**SMALL_CNN, features_extractor_class=ChannelsLastCNN)),
        dict(policy="MultiInputPolicy", env="dictionaries"),
        dict(use_sde=True, gradient_steps=2),
        dict(subset_size=1.5),
        dict(policy_kwargs=dict(net_arch=[8], optimizer_class=th.optim.AdamW)),
    ],
    ids=str,
)
def test_traced_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    images = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False)
    images.observation_space.seed(0)
    envs = {"images": images, "dictionaries": SimpleMultiObsEnv(discrete_actions=False), "Pendulum-v1": "Pendulum-v1"}
    env = envs[variant.get("env", "Pendulum-v1")]
    plain, compiled = (make(**{**variant, "env": copy.deepcopy(env)}, compile=c).learn(24) for c in (False, True))
    assert_close(compiled, plain, atol=1e-4)
    assert compiled.logger.name_to_value["train/critic_loss"] == pytest.approx(
        plain.logger.name_to_value["train/critic_loss"], rel=1e-3
    )


def test_batch_normalization_is_not_compiled() -> None:
    kwargs = dict(policy_kwargs=dict(net_arch=[8], features_extractor_class=BatchNormExtractor))
    with pytest.warns(UserWarning, match="compile=True has no effect on networks with batch normalization"):
        model = make(compile=True, **kwargs).learn(24)
    assert_close(model, make(**kwargs).learn(24), atol=0.0)


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_updates_leave_frozen_layers_alone() -> None:
    models = []
    for is_compiled in (False, True):
        models.append(make(compile=is_compiled).learn(24))
        weight = models[-1].critic.ensemble.layers[0].weight.requires_grad_(False)
        before = weight.clone()
        models[-1].learn(4, reset_num_timesteps=False)
        assert th.equal(weight, before)
    assert_close(*models, atol=1e-4)


@pytest.mark.usefixtures("fresh_compiler", "no_excuses")
def test_blocks_of_all_sizes_share_one_compiled_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_really = th.compile

    def counting(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
        def backend(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
            compiled.append(function.__name__)
            return graph

        return compile_really(function, backend=backend, **kwargs)

    monkeypatch.setattr(th, "compile", counting)
    settings = dict(gradient_steps=7, policy_delay=3)  # blocks of 3, 3, 1, 2, ... minibatches
    model = make(compile=True, **settings).learn(40)
    assert compiled.count("functional") == 1 and model._n_updates == 140
    assert_close(model, make(**settings).learn(40), atol=1e-4)


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_updates_are_recorded() -> None:
    plain, recorded = make().learn(40), make(Recorded, compile=True).learn(40)
    assert_close(recorded, plain, atol=1e-4)
    assert recorded.tape.replays == 17


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_dropout_drops() -> None:
    model = make(compile=True, policy_kwargs=dict(net_arch=[8], dropout=0.5, n_critics=2)).learn(24)
    assert model._n_updates == 80
    minibatch, targets = model.replay_buffer.sample(8), th.zeros(2, 8)
    model.policy.set_training_mode(True)
    state = copy.deepcopy(model.critic.state_dict())
    losses = []
    for _ in range(2):
        model.critic.load_state_dict(state)
        losses.append(model.update.step_critics(minibatch, targets)[0])
    assert losses[0] != losses[1]


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_lower_precision_is_the_plain_one() -> None:
    plain, compiled = (make(autocast_dtype="bfloat16", compile=c).learn(24) for c in (False, True))
    assert_close(compiled, plain, atol=1e-3)
    assert all(parameter.grad.dtype == th.float32 for parameter in compiled.critic.parameters())


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_networks_are_compiled_with_their_gradient_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a CPU's objection does not hold."""
    plain = make().learn(24)
    monkeypatch.setattr(NetworkEvaluator, "is_compiled", lambda self, differentiable: self.compile)
    assert_close(make(compile=True).learn(24), plain, atol=1e-4)


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiling_can_begin_at_any_time(tmp_path: Path) -> None:
    """In a model that has learned without, in a copy of it, in a loaded one."""
    model = make().learn(24)
    model.save(tmp_path / "model")
    loaded = REDQSAC.load(tmp_path / "model", env=model.env, compile=True)
    loaded.replay_buffer = copy.deepcopy(model.replay_buffer)
    loaded.set_logger(model.logger)
    duplicate = copy.deepcopy(model)
    duplicate.compile = True
    for each in (model, duplicate, loaded):
        th.manual_seed(1)
        np.random.seed(1)
        each.train(40, 8)
    assert_close(duplicate, model, atol=1e-4)
    assert_close(loaded, model, atol=1e-4)


class Shifted(th.nn.Module):
    """A loss that moves a buffer, has an output in full precision, and a parameter without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = th.nn.Linear(3, 2), th.nn.Parameter(th.ones(2))
        self.register_buffer("count", th.zeros(()))

    def forward(self, x: th.Tensor, counts: bool) -> tuple[th.Tensor, ...]:
        if counts:
            self.count.add_(1.0)
        with th.autocast("cpu", enabled=False):
            outputs = self.layer(x)
        return outputs.square().sum(), outputs


def test_a_loss_and_its_gradients_in_both_ways() -> None:
    th.manual_seed(0)
    loss, x = Shifted(), th.randn(5, 3)
    parameters = dict(loss.named_parameters())
    gradients_of = LossGradients(loss)
    outputs = x @ loss.layer.weight.T + loss.layer.bias
    expected = {
        "unused": th.zeros(2),
        "layer.weight": 2 * outputs.T @ x,
        "layer.bias": 2 * outputs.sum(dim=0),
    }
    for function in (gradients_of.functional, gradients_of.autograd):
        for precision in (th.float32, th.bfloat16):
            loss.zero_grad()
            with th.no_grad(), th.autocast("cpu", dtype=th.bfloat16, enabled=precision == th.bfloat16):
                *gradients, value, extra = function(parameters, x, False)
            for name, gradient in zip(parameters, gradients, strict=True):
                th.testing.assert_close(gradient, expected[name].detach(), msg=name)
            th.testing.assert_close(value, outputs.square().sum().detach())
            assert not (value.requires_grad or extra.requires_grad) and th.equal(extra, loss.layer(x).detach())
    with th.no_grad(), pytest.raises(RuntimeError, match="mutate"):
        gradients_of.functional(parameters, x, True)
    loss.zero_grad()
    with pytest.warns(UserWarning, match="compile=True has no effect"), th.no_grad():
        *gradients, value, _ = compiled_or_plain(gradients_of.functional, gradients_of.autograd)(parameters, x, True)
    assert loss.count == 1
    th.testing.assert_close(gradients[0], expected[next(iter(parameters))].detach())


def test_gradients_have_the_strides_of_their_parameters() -> None:
    convolution = th.nn.Conv2d(4, 8, 3)

    class Loss(th.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, x: th.Tensor) -> tuple[th.Tensor, ...]:
            return (self.convolution(x).square().sum(),)

    x = th.rand(2, 4, 8, 8).to(memory_format=th.channels_last)
    Loss()(x)[0].backward()
    expected = convolution.weight.grad
    parameters = dict(Loss().named_parameters())
    with th.no_grad():
        for function in (LossGradients(Loss()).functional, LossGradients(Loss()).autograd):
            convolution.zero_grad()
            weight, bias, _ = function(parameters, x)
            assert weight.stride() == convolution.weight.stride() and bias.stride() == convolution.bias.stride()
            th.testing.assert_close(weight, expected)


def test_updates_without_a_compiler_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(th, "compile", failing)
    with pytest.warns(UserWarning, match="compile=True has no effect from here on: .* no C\\+\\+ compiler"):
        model = make(compile=True).learn(24)
    assert_close(model, make().learn(24), atol=0.0)


def test_the_loss_trains_what_the_optimizer_has() -> None:
    """A features extractor that the actor shares learns from the actor's loss alone."""
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False)
    for is_shared in (False, True):
        model = make(policy="CnnPolicy", env=env, policy_kwargs=dict(**SMALL_CNN, share_features_extractor=is_shared))
        trained = model.update.trained_critic_parameters()
        expected = {f"critic.{name}": p for name, p in model.critic.named_parameters()}
        if is_shared:
            expected = {name: p for name, p in expected.items() if "features_extractor" not in name}
        assert trained.keys() == expected.keys() and len(trained) > 0
        assert all(trained[name] is expected[name] for name in trained)


def test_lower_precision_is_near_and_leaves_parameters_alone() -> None:
    plain, lower = make().learn(24), make(autocast_dtype="bfloat16").learn(24)
    assert_close(lower, plain, atol=0.05)
    assert not th.equal(lower.critic.ensemble.layers[0].weight, plain.critic.ensemble.layers[0].weight)
    assert all(parameter.dtype == th.float32 for parameter in lower.policy.parameters())


def test_values_and_distributions_keep_their_digits_in_lower_precision() -> None:
    model = make(autocast_dtype="bfloat16", policy_kwargs=dict(net_arch=[64]))
    critic, actor = model.critic, model.actor
    with th.no_grad():
        for bias in (critic.ensemble.layers[-1].bias, actor.mu.bias, actor.log_std.bias):
            bias.add_(1.502)  # bfloat16 knows 1.5 and 1.508
        obs, actions = th.rand(256, 3), th.rand(256, 1)
        for function, args in ((critic.stacked, (obs, actions)), (gaussian_parameters, (actor, obs))):
            exact, lower = function(*args), model.evaluate(function, *args)
            for one, other in zip(th.atleast_2d(exact), th.atleast_2d(lower), strict=True):
                assert not th.equal(one, other)
                # Rounded to 8 bits there would be some dozens of values
                assert len(other.unique()) > 200


def test_gsde_in_lower_precision() -> None:
    assert make(autocast_dtype="bfloat16", use_sde=True).learn(24)._n_updates > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(compile="yes"), r"compile='yes' is not one of True, False"),
        (dict(autocast_dtype="float16"), r"autocast_dtype='float16' is not one of None, 'auto', 'bfloat16'"),
        (dict(cuda_graphs=None), r"cuda_graphs=None is not one of True, False"),
        (dict(buffer_device="cuda"), r"buffer_device='cuda' is not one of 'auto', 'cpu'"),
    ],
)
def test_bad_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_the_buffer_follows_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The device as it is on a GPU, as far as the choice of the buffer goes."""
    assert type(make().replay_buffer) is ReplayBuffer
    choose = REDQSAC._default_buffer_class

    def as_on_a_gpu(self: REDQSAC) -> Any:
        real, self.device = self.device, th.device("cuda")
        try:
            return choose(self)
        finally:
            self.device = real

    monkeypatch.setattr(REDQSAC, "_default_buffer_class", as_on_a_gpu)
    model = make()
    assert type(model.replay_buffer) is DeviceReplayBuffer
    assert type(make(buffer_device="cpu").replay_buffer) is ReplayBuffer
    assert type(make(n_steps=3).replay_buffer) is not DeviceReplayBuffer
    assert type(make(replay_buffer_class=PrioritizedReplayBuffer).replay_buffer) is PrioritizedReplayBuffer
    model.learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    monkeypatch.undo()
    loaded = REDQSAC.load(tmp_path / "model", env=model.env)
    assert type(loaded.replay_buffer) is ReplayBuffer
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.learn(10, reset_num_timesteps=False)._n_updates > model._n_updates
