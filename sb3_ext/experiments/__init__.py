"""
Grids of runs through rl_zoo3, and what came of them: ``python -m sb3_ext.experiments run FILE``.

Nothing here imports rl_zoo3, rliable or Ray at module level, so that the package works without them.
"""

from sb3_ext.experiments.grid import Experiment, ExperimentError, Run, load_experiment
from sb3_ext.experiments.runs import RunFolder, Status

__all__ = ["Experiment", "ExperimentError", "Run", "RunFolder", "Status", "load_experiment"]
