"""
Makes an unmodified rl_zoo3 know the algorithms of sb3_ext.

rl_zoo3 loads no plug-ins, and it reads its table of algorithms before it imports anything that a user names. So this
module is installed beside the package, not inside it. The ``.pth`` file next to it calls :func:`install` whenever a
Python interpreter starts.

All that happens then is that one finder is put on ``sys.meta_path``. The package itself, and torch with it, is imported
only if the program later imports rl_zoo3. This module imports nothing but ``sys`` at the start, and it must never be
the reason why a Python program fails.
"""

import sys

#: The modules that :func:`sb3_ext.zoo.plugin.patch_module` completes once they have been executed.
PATCHED_MODULES = frozenset({"rl_zoo3.utils", "rl_zoo3.hyperparams_opt", "rl_zoo3.exp_manager", "rl_zoo3.callbacks"})


def _patch(module):
    """Let ``sb3_ext`` complete a module of rl_zoo3 that has just been executed."""
    try:
        from sb3_ext.zoo.plugin import patch_module

        patch_module(module)
    except Exception as error:
        # The package was deleted by hand, or an editable checkout has moved. rl_zoo3 then works as if it had never been
        # there.
        if isinstance(error, ModuleNotFoundError) and error.name in ("sb3_ext", "sb3_ext.zoo", "sb3_ext.zoo.plugin"):
            return
        import warnings

        warnings.warn(
            f"sb3_ext could not add its algorithms to {module.__name__}, those of rl_zoo3 are not affected: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


class _PatchingLoader:
    """Stands in for the loader of one module, until that module is executed."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        # The loader is given back before the module runs, so that the import looks like an ordinary one.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _patch(module)

    def __getattr__(self, name):
        return getattr(self.loader, name)


class _RLZooFinder:
    """Finds the modules of :data:`PATCHED_MODULES` where other finders find them, and wraps their loaders."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in PATCHED_MODULES:
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec = find_spec(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _PatchingLoader(spec.loader)
                return spec
        return None


def install():
    """Put the finder at the front of ``sys.meta_path``, once."""
    if not any(isinstance(finder, _RLZooFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RLZooFinder())
