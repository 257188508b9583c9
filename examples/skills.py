"""
Skills without a reward: DIAYN (Eysenbach et al. 2018, https://arxiv.org/abs/1802.06070) around REDQSAC.

    python examples/skills.py --output skills                     # HalfCheetah-v4, two skills, half an hour on a laptop
    python examples/skills.py --env Hopper-v4 --skills 4 --gif    # a short film of each skill as well

A wrapper tells the policy which skill to show, and rewards states from which a discriminator can tell the skill. A
callback trains the discriminator on the replay buffer. Nothing of REDQSAC changes.
"""

import argparse
from typing import Any

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn
from torch.nn import functional as F

from sb3_ext import REDQSAC

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


class Discriminator(nn.Module):
    """Guesses the skill from a state."""

    def __init__(self, n_inputs: int, n_skills: int) -> None:
        super().__init__()
        self.n_skills = n_skills
        self.layers = nn.Sequential(nn.Linear(n_inputs, 128), nn.ReLU(), nn.Linear(128, n_skills))

    def log_probs(self, states: th.Tensor) -> th.Tensor:
        """Return log q(z|s) of all skills, shape (B, n_skills)."""
        return F.log_softmax(self.layers(states), dim=1)


class SkillEnv(gym.Wrapper):
    """
    Draws a skill for each episode, shows it behind the observation, and rewards with ``log q(z|s') - log p(z)``.

    :param skill: always this one; ``None``: drawn anew for each episode
    """

    def __init__(self, env: gym.Env, discriminator: Discriminator, skill: int | None = None) -> None:
        super().__init__(env)
        self.discriminator, self.skill, self._fixed = discriminator, 0, skill
        shape = (env.observation_space.shape[0] + discriminator.n_skills,)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)

    def _with_skill(self, obs: np.ndarray) -> np.ndarray:
        return np.concatenate([obs, np.eye(self.discriminator.n_skills)[self.skill]]).astype(np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        drawn = int(self.unwrapped.np_random.integers(self.discriminator.n_skills))
        self.skill = drawn if self._fixed is None else self._fixed
        return self._with_skill(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = self.env.step(action)
        with th.no_grad():
            log_probs = self.discriminator.log_probs(th.as_tensor(obs, dtype=th.float32)[None])[0]
        reward = log_probs[self.skill].item() + np.log(self.discriminator.n_skills)
        return self._with_skill(obs), reward, terminated, truncated, info


class TrainDiscriminator(BaseCallback):
    """One gradient step on the replay buffer after each step of the environment."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.optimizer = th.optim.Adam(discriminator.parameters(), lr=3e-4)

    def _on_step(self) -> bool:
        if self.num_timesteps > self.model.learning_starts:
            seen = self.model.replay_buffer.sample(256).next_observations.float().cpu()
            n_skills = self.discriminator.n_skills
            states, skills = seen[:, :-n_skills], seen[:, -n_skills:].argmax(dim=1)
            log_probs = self.discriminator.log_probs(states)
            loss = F.nll_loss(log_probs, skills)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.logger.record_mean("skills/accuracy", (log_probs.argmax(dim=1) == skills).float().mean().item())
        return True


def show(model: REDQSAC, env_id: str, discriminator: Discriminator, skill: int, film: bool) -> tuple[np.ndarray, list]:
    """Play one skill. Return the positions (x, height), shape (n, 2), and the pictures of a film."""
    options: dict[str, Any] = dict(render_mode="rgb_array") if film else {}
    env = SkillEnv(gym.make(env_id, max_episode_steps=300, **options), discriminator, skill)
    obs, _ = env.reset(seed=0)
    positions, pictures, done = [], [], False
    while not done:
        action, _ = model.predict(obs, deterministic=True)
        obs, _, terminated, truncated, _ = env.step(action)
        positions.append(env.unwrapped.data.qpos[:2].copy())
        if film and len(positions) % 4 == 0:
            pictures.append(env.render())
        done = terminated or truncated
    return np.array(positions), pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v4", help="a MuJoCo task whose first coordinate is x")
    parser.add_argument("--skills", type=int, default=2)
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--output", default="skills", help="name of the figure and of the films")
    parser.add_argument("--gif", action="store_true", help="also a film of each skill; needs moviepy")
    args = parser.parse_args()
    plain = gym.make(args.env)
    discriminator = Discriminator(plain.observation_space.shape[0], args.skills)
    model = REDQSAC(
        "MlpPolicy",
        SkillEnv(plain, discriminator),
        learning_starts=min(1000, args.timesteps // 2),
        gradient_steps=1,
        ent_coef=0.1,
        policy_kwargs=dict(n_critics=2),
        seed=0,
    )
    model.learn(args.timesteps, callback=TrainDiscriminator(discriminator), progress_bar=True)
    figure, axes = plt.subplots(figsize=(6.9, 3.2), layout="constrained")
    for skill in range(args.skills):
        positions, pictures = show(model, args.env, discriminator, skill, args.gif)
        axes.plot(*positions.T, color=COLORS[skill % len(COLORS)], label=f"skill {skill}")
        print(f"skill {skill}: from x = {positions[0, 0]:.1f} to {positions[-1, 0]:.1f} in {len(positions)} steps")
        if args.gif:
            from moviepy import ImageSequenceClip

            ImageSequenceClip(pictures, fps=20).write_gif(f"{args.output}_{skill}.gif", logger=None)
    axes.set(xlabel="x", ylabel="height", title=f"{args.skills} skills of {args.env}")
    axes.legend(frameon=False)
    figure.savefig(f"{args.output}.png", dpi=150)
    print(f"{args.output}.png: one episode of each skill")


if __name__ == "__main__":
    main()
