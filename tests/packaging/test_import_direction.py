"""
Imports go one way: checks, files, keywords, functional, schedules <- nets, buffers, speed, envs <- common
<- algorithms, diagnosis <- zoo <- experiments.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "sb3_ext"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "startup" not in path.parts)

#: What each part may import besides itself. Any other part is an algorithm, or the diagnosis, which knows none of them.
SHARED_PARTS = {
    "checks": set(),
    "files": set(),
    "keywords": set(),
    "functional": set(),
    "schedules": set(),
    "callbacks": {"checks", "schedules"},
    "nets": {"checks", "functional"},
    "buffers": {"checks", "files", "keywords", "functional"},
    "speed": {"checks", "functional"},
    "envs": {"checks", "keywords"},
    "common": {"checks", "files", "keywords", "functional", "schedules", "nets", "buffers", "speed"},
}
ALGORITHM_MAY_IMPORT = set(SHARED_PARTS)
#: What each part on top may not import; all else it may
ON_TOP = {"zoo": {"experiments"}, "experiments": set()}


def name_of(path: Path) -> str:
    """
    :param path: a source file
    :return: the name it is imported by
    """
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """
    :param node: a syntax node
    :param path: the file it is from
    :return: the absolute names of the modules it imports; of ``from a import b`` also ``a.b``, which may be one
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = path.relative_to(REPOSITORY).parts[:-1]
        base = ".".join((*package[: len(package) - node.level + 1], *([node.module] if node.module else [])))
        base = base if node.level else node.module
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


def module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """
    :param tree: a module
    :return: the nodes that run when it is imported; blocks for type checkers do not
    """
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue.extend(ast.iter_child_nodes(node))


def allowed_parts(part: str) -> set[str]:
    """
    :param part: a folder or top-level module of the package, not one on top
    :return: the folders and top-level modules it may import
    """
    return SHARED_PARTS.get(part, ALGORITHM_MAY_IMPORT) | {part}


def violations(path: Path, source: str) -> list[str]:
    """
    :param path: a file of the package
    :param source: its text
    :return: the imports in it that go the wrong way, anywhere in the file
    """
    names = name_of(path).split(".")
    if len(names) == 1:
        # The public names are collected at the top, and `zoo` needs them to be there.
        return [
            name
            for node in ast.walk(ast.parse(source))
            for name in imported(node, path)
            if any(f".{part}" in name for part in ON_TOP)
        ]
    allowed = allowed_parts(names[1])
    wrong = []
    for node in ast.walk(ast.parse(source)):
        for name in imported(node, path):
            target = name.split(".")
            if target[0] != "sb3_ext" or (len(target) == 1 and isinstance(node, ast.ImportFrom)):
                continue
            if names[1] in ON_TOP:  # these may use all public names
                is_wrong = len(target) > 1 and target[1] in ON_TOP[names[1]]
            else:
                is_wrong = len(target) == 1 or target[1] not in allowed
            wrong += [name] if is_wrong else []
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rl_zoo3_and_optuna_are_not_imported_with_the_package(path):
    nodes = module_level(ast.parse(path.read_text()))
    roots = {name.split(".")[0] for node in nodes for name in imported(node, path)}
    assert not roots & {"rl_zoo3", "optuna"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "functional"], ids=name_of)
def test_the_functional_layer_needs_only_torch(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    roots = {name.split(".")[0] for node in nodes for name in imported(node, path)}
    assert roots <= {"torch", "sb3_ext"} | sys.stdlib_module_names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("functional/bellman.py", "from sb3_ext.nets import ensemble"),
        ("nets/ensemble.py", "import sb3_ext.buffers.samples"),
        ("nets/ensemble.py", "from ..common import off_policy"),
        ("speed/recording.py", "from sb3_ext.buffers import samples"),
        ("envs/atari_vec_env.py", "from sb3_ext.common import off_policy"),
        ("buffers/per.py", "from sb3_ext import nets"),
        ("common/off_policy.py", "def f():\n    from sb3_ext import REDQSAC"),
        ("redq_sac/redq_sac.py", "from ..iqn import policies"),
        ("iqn/iqn.py", "from sb3_ext.zoo import register"),
        ("iqn/iqn.py", "import sb3_ext"),
        ("zoo/plugin.py", "from sb3_ext.experiments import grid"),
        ("__init__.py", "import sb3_ext.experiments"),
        ("__init__.py", "from sb3_ext.zoo import register"),
    ],
)
def test_the_check_sees_what_is_wrong(module, source):
    assert violations(PACKAGE / module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nets/ensemble.py", "from sb3_ext.functional.ensemble import TARGET_BACKUPS"),
        ("redq_sac/redq_sac.py", "from .policies import MlpPolicy\nfrom ..checks import check_choice"),
        ("zoo/plugin.py", "import sb3_ext\nfrom sb3_ext import REDQSAC\nfrom sb3_ext.zoo import samplers"),
        ("experiments/grid.py", "from sb3_ext.zoo import register\nimport sb3_ext.files"),
        ("__init__.py", "from sb3_ext.redq_sac import REDQSAC"),
    ],
)
def test_the_check_lets_pass_what_is_right(module, source):
    assert violations(PACKAGE / module, source) == []
