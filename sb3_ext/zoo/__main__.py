"""
``python -m sb3_ext.zoo train --algo redq_sac ...``: a script of rl_zoo3, with the algorithms of this package.

It is needed only if the start-up shim did not run, see :func:`sb3_ext.zoo.register`.
"""

import runpy
import sys

from sb3_ext.zoo.plugin import register

SCRIPTS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "plot_train": "rl_zoo3.plots.plot_train",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
    "all_plots": "rl_zoo3.plots.all_plots",
}


def main() -> None:
    """Run the script of rl_zoo3 named by the first argument, with the rest of the command line as its arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        sys.exit(f"usage: python -m sb3_ext.zoo {{{','.join(SCRIPTS)}}} ...  (the rest goes to the script of rl_zoo3)")
    module_name = SCRIPTS[sys.argv.pop(1)]
    register()
    runpy.run_module(module_name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
