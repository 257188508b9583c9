"""What an installation puts where, what it costs, and that it goes away again."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sb3_ext.zoo import ZOO_ALGORITHMS

REPOSITORY = Path(__file__).resolve().parents[2]
STARTUP = REPOSITORY / "sb3_ext" / "zoo" / "startup"

ALGORITHMS = "import json, rl_zoo3; print(json.dumps({k: v.__module__ for k, v in rl_zoo3.ALGOS.items()}))"

# Records what a Python start imports, and puts a fake rl_zoo3 where the finder looks for it.
FAKE_ZOO = """
import sys, warnings
sys.path[:0] = {paths!r}
import sb3_ext_startup
sb3_ext_startup.install()
sb3_ext_startup.install()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import rl_zoo3.utils, rl_zoo3.other
print([type(finder).__name__ for finder in sys.meta_path].count("_RLZooFinder"))
print(rl_zoo3.utils.ALGOS, type(rl_zoo3.utils.__loader__).__name__, type(rl_zoo3.utils.__spec__.loader).__name__)
print([(w.category.__name__, str(w.message)) for w in caught])
"""


def test_the_wheel_contains_what_it_should(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        pth = archive.read("sb3_ext_startup.pth").decode()
    assert len(names) == len(set(names))
    yaml_files = {f"sb3_ext/hyperparams/{algo}.yml" for algo in ZOO_ALGORITHMS}
    assert {"sb3_ext/py.typed", "sb3_ext_startup.py", *yaml_files} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "sb3_ext",
        "sb3_ext_startup.py",
        "sb3_ext_startup.pth",
    }
    assert not any(name.startswith("sb3_ext/zoo/startup") for name in names)
    # `site` executes one line at a time, and only if it starts like this.
    assert pth.count("\n") == 1 and pth.startswith("import ")


def test_the_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    subprocess.run([*build, str(tmp_path), str(source)], check=True, capture_output=True, timeout=300)
    (from_sdist,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(from_sdist) as ours, zipfile.ZipFile(wheel) as theirs:
        assert sorted(ours.namelist()) == sorted(theirs.namelist())


def test_the_lowest_versions_are_those_that_are_pinned():
    project = (REPOSITORY / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1]
    bounds = dict(re.findall(r'^    "([\w.-]+)(?:\[\w+\])?>=([\d.]+)', needed, re.MULTILINE))
    assert len(bounds) == len(needed.splitlines())
    pins = dict(re.findall(r"^([\w.-]+)==([\d.]+)", (REPOSITORY / "constraints-lowest.txt").read_text(), re.MULTILINE))

    def numbers(version: str) -> list[int]:
        parts = [int(part) for part in version.split(".")]
        return parts + [0] * (3 - len(parts))

    assert {name: numbers(bound) for name, bound in bounds.items()} == {name: numbers(pins[name]) for name in bounds}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution of the repository itself."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (path,) = folder.glob("*.tar.gz")
    return path


def test_an_index_would_take_both_files(wheel, sdist):
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0 and result.stdout.count("PASSED") == 2, result.stdout + result.stderr


def test_the_sdist_has_its_tests(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for name in ("Makefile", "constraints.txt", "constraints-lowest.txt", "docs/results/page.yml"):
        assert (unpacked / name).is_file()
    names = "tests/functional/test_bellman.py", "tests/test_schedules.py", "tests/benchmarks/test_results_page.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names]
    result = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout + result.stderr


def test_uninstall_leaves_nothing_behind(wheel, new_environment):
    environment = new_environment(sees_dependencies=False)
    before = environment.files()
    environment.install(str(wheel))
    assert "sb3_ext_startup.pth" in environment.files()
    environment.pip("uninstall", "-y", "sb3-ext")
    assert environment.files() == before


def test_editable_install(source, new_environment, tmp_path):
    environment = new_environment()
    before = environment.files()
    environment.install("--editable", str(source))
    query = "import sb3_ext.zoo as z; print(z.hyperparams_path('redq_sac'))"
    algorithms, path = environment.run("-c", f"{ALGORITHMS}; {query}", cwd=tmp_path).splitlines()
    assert json.loads(algorithms)["redq_sac"].startswith("sb3_ext.")
    assert Path(path) == source / "hyperparams" / "redq_sac.yml" and Path(path).is_file()
    environment.pip("uninstall", "-y", "sb3-ext")
    assert environment.files() == before


def test_a_python_start_costs_nothing(installed, tmp_path):
    query = "import sys; print('sb3_ext_startup' in sys.modules, 'sb3_ext' in sys.modules, 'torch' in sys.modules)"
    assert installed.run("-c", query, cwd=tmp_path).split() == ["True", "False", "False"]
    # The best of a few starts: the others measure what else the machine does.
    costs = []
    for _ in range(5):
        result = subprocess.run(
            [installed.python, "-X", "importtime", "-c", "pass"], capture_output=True, text=True, check=True
        )
        costs.append(int(re.search(r"\|\s*(\d+) \|\s*sb3_ext_startup", result.stderr).group(1)))
    assert min(costs) < 1000, f"microseconds: {costs}"


def test_the_shim_imports_only_what_python_has_loaded_anyway():
    query = f"""
import sys
sys.path.insert(0, {str(STARTUP)!r})
before = set(sys.modules)
import sb3_ext_startup
sb3_ext_startup.install()
print(sorted(set(sys.modules) - before))
"""
    result = subprocess.run([sys.executable, "-I", "-S", "-c", query], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['sb3_ext_startup']"


def test_without_site_packages_nothing_happens(installed, tmp_path):
    query = "import sys; print([type(finder).__name__ for finder in sys.meta_path].count('_RLZooFinder'))"
    assert installed.run("-c", query, cwd=tmp_path).strip() == "1"
    assert installed.run("-S", "-c", query, cwd=tmp_path).strip() == "0"


def test_the_pth_line_survives_a_deleted_shim(installed, tmp_path):
    line = (installed.site_packages / "sb3_ext_startup.pth").read_text()
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == result.stderr == ""


@pytest.fixture
def fake_zoo(tmp_path):
    """Run the shim on a fake rl_zoo3, next to an ``sb3_ext`` whose files are given, and return the lines it printed."""

    def run(files):
        for name, text in {
            "rl_zoo3/__init__.py": "",
            "rl_zoo3/utils.py": "ALGOS = {'sac': 1}",
            "rl_zoo3/other.py": "",
            **files,
        }.items():
            path = tmp_path / "fake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        script = FAKE_ZOO.format(paths=[str(STARTUP), str(tmp_path / "fake")])
        result = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
        assert result.stderr == ""
        return result.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    "left_over",
    [{}, {"sb3_ext/hyperparams/redq_sac.yml": ""}, {"sb3_ext/zoo/__init__.py": ""}],
    ids=["nothing", "a folder", "an older package"],
)
def test_a_package_that_has_vanished_is_not_mentioned(fake_zoo, left_over):
    assert fake_zoo(left_over) == ["1", "{'sac': 1} SourceFileLoader SourceFileLoader", "[]"]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("raise OSError('no such library')", "OSError: no such library"),
        ("import not_installed", "ModuleNotFoundError: No module named 'not_installed'"),
        ("def patch_module(module): module.NO", "module 'rl_zoo3.utils' has no attribute 'NO'"),
    ],
)
def test_any_other_failure_is_a_warning(fake_zoo, plugin, message):
    count, zoo, caught = fake_zoo({"sb3_ext/zoo/plugin.py": plugin})
    assert (count, zoo) == ("1", "{'sac': 1} SourceFileLoader SourceFileLoader")
    assert caught.startswith("[('RuntimeWarning'") and caught.count("RuntimeWarning") == 1
    assert "rl_zoo3.utils" in caught and message in caught.replace("\\'", "'")


def test_each_module_is_completed_right_after_its_execution(fake_zoo):
    plugin = "def patch_module(module): module.ALGOS[module.__name__] = module.__spec__.name"
    lines = fake_zoo({"sb3_ext/zoo/plugin.py": plugin})
    assert lines[1].startswith("{'sac': 1, 'rl_zoo3.utils': 'rl_zoo3.utils'} SourceFileLoader")
    assert lines[2] == "[]"


def test_a_vanished_package_in_a_real_environment(wheel, new_environment, tmp_path):
    environment = new_environment()
    environment.install(str(wheel))
    shutil.rmtree(environment.site_packages / "sb3_ext")
    # The parent of the tests may have the package as well: not here.
    query = f"import sys; sys.modules['sb3_ext'] = None; {ALGORITHMS}"
    algorithms = json.loads(environment.run("-W", "error::RuntimeWarning", "-c", query, cwd=tmp_path))
    assert "sac" in algorithms and "redq_sac" not in algorithms
