"""
Everything that ties the algorithms to rl_zoo3: the plug-in, the Optuna samplers and the start-up shim.

Nothing here imports rl_zoo3 at module level, so that the package can be used without it.
"""

from sb3_ext.zoo.plugin import ZOO_ALGORITHMS, hyperparams_path, register

__all__ = ["ZOO_ALGORITHMS", "hyperparams_path", "register"]
