"""Makes each model of a grid once before the grid starts, so that mistakes show at once."""

import argparse
import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import yaml

from sb3_ext.experiments.grid import ExperimentError, Run
from sb3_ext.zoo import register


def rehearse(path: Path, runs: Iterable[Run]) -> None:
    """
    Make environment, wrappers, callbacks and model of each variant in each environment, and throw them away.

    The names of parameters have been checked by then (:func:`load_experiment`), but their values have not.

    :param runs: the runs that are to be trained; only one seed of them is tried
    :raises ExperimentError: naming variant and environment, if a model cannot be made
    """
    register()
    for run in {(run.variant, run.env): run for run in runs}.values():
        try:
            # The run itself will print the same, and warn of the same.
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                with tempfile.TemporaryDirectory() as folder:
                    _make(run, Path(folder))
        except (Exception, SystemExit) as error:
            problem = f"{run.algo} cannot be made for {run.env}: {type(error).__name__}: {error}"
            raise ExperimentError(path, f"variants.{run.variant}", problem) from error


def _make(run: Run, folder: Path) -> None:
    """Make the model of a run on the CPU, with rl_zoo3's own code."""
    from rl_zoo3.exp_manager import ExperimentManager

    config = folder / "hyperparams.yml"
    entry = {"n_timesteps": run.n_timesteps, **run.base_hyperparams, **run.hyperparams}
    config.write_text(yaml.safe_dump({run.env: entry}), encoding="utf-8")
    manager = ExperimentManager(
        argparse.Namespace(),
        run.algo,
        run.env,
        str(folder),
        n_timesteps=run.n_timesteps,
        eval_freq=-1,
        env_kwargs=run.env_kwargs,
        seed=run.seed,
        verbose=0,
        device="cpu",
        config=str(config),
    )
    made = manager.setup_experiment()
    assert made is not None  # only searches return None
    model, _ = made
    assert model.env is not None
    model.env.close()
