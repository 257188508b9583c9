"""The documentation: pages, links and API reference without what builds the site, and the build where that is there."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sb3_ext
from tests.support.pages import PAGES, README_AND_PAGES, REPOSITORY, code_blocks

DOCS = REPOSITORY / "docs"
CONFIG = REPOSITORY / "mkdocs.yml"

#: What `mkdocs build` imports. The extra "docs" has it, "dev" does not: the other tests need none of it.
SITE_MODULES = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


#: Characters. Longer ones need scrolling in a browser window of 1400 pixels
MAX_CODE_LINE = 76


def relative_name(path: Path) -> str:
    """
    :param path: a file of the repository
    :return: its path in there
    """
    return path.relative_to(REPOSITORY).as_posix()


def nav_pages(entry: Any) -> Iterator[str]:
    """
    :param entry: of ``nav`` in ``mkdocs.yml``: a page, or a title with a page or several entries, or a list of these
    :return: the pages, relative to ``docs``
    """
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_pages(child)


def without_code(text: str) -> str:
    """
    :param text: Markdown
    :return: the same without code blocks and without code in a line
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", text)


def links(text: str) -> list[str]:
    """
    :param text: Markdown
    :return: where its links and images lead, other sites left out
    """
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", without_code(text))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """
    :param text: Markdown
    :return: what links to its headings have behind ``#``, on Git hosts as in the site
    """
    blocks_removed = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*?) *$", blocks_removed, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """
    :param page: where the text is, or would be
    :param text: Markdown
    :return: its links that lead to no file, or to no heading of one
    """
    broken = []
    for link in links(text):
        name, _, anchor = link.partition("#")
        # (A link to a folder works on Git hosts and not in the site, an absolute one in neither)
        target = page.parent / name if name else page
        is_there = (not name or target.is_file()) and not name.startswith("/")
        if is_there and anchor and target.suffix == ".md":
            is_there = anchor in anchors(text if target == page else target.read_text())
        if not is_there:
            broken.append(link)
    return broken


def identifiers(page: Path) -> list[str]:
    """
    :param page: of the API reference
    :return: what it documents
    """
    return re.findall(r"^::: *(\S+)", page.read_text(), flags=re.MULTILINE)


def resolve(identifier: str) -> Any:
    """
    :param identifier: dotted name of a module, or of something in one
    :return: what it names
    :raises ImportError: if it names nothing
    """
    parts = identifier.split(".")
    for n_modules in range(len(parts), 0, -1):
        name = ".".join(parts[:n_modules])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # (One of its own imports may be missing as well)
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        for attribute in parts[n_modules:]:
            if not hasattr(found, attribute):
                raise ImportError(f"{identifier}: there is no {attribute}")
            found = getattr(found, attribute)
        return found
    raise ImportError(identifier)


API_IDENTIFIERS = [identifier for page in PAGES for identifier in identifiers(page)]


def test_the_navigation_lists_every_page_once():
    listed = list(nav_pages(yaml.safe_load(CONFIG.read_text())["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", README_AND_PAGES, ids=relative_name)
def test_links_and_images_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", README_AND_PAGES, ids=relative_name)
def test_lines_of_code_fit_into_a_page(page):
    assert [line for block in code_blocks(page) for line in block.splitlines() if len(line) > MAX_CODE_LINE] == []


@pytest.mark.parametrize("page", PAGES, ids=relative_name)
def test_pages_link_to_nothing_outside_the_site(page):
    targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page.read_text())]
    assert [target for target in targets if not target.is_relative_to(DOCS)] == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](missing.md)",
        "![a](figures/missing.png)",
        "[a](buffers.md#missing)",
        "[a](#missing)",
        "[a](/buffers.md)",
        "[a](api)",
    ],
)
def test_a_broken_link_is_seen(text):
    assert broken_links(DOCS / "index.md", f"# Here\n\n{text}\n") == links(text)


@pytest.mark.parametrize(
    "text",
    ["[a](buffers.md#memory)", "[a](#here)", "[a](https://b.c/d.md)", "`[a](missing.md)`", "```\n[a](missing.md)\n```"],
)
def test_what_is_no_broken_link_passes(text):
    assert broken_links(DOCS / "index.md", f"# Here\n\n{text}\n") == []


@pytest.mark.parametrize("identifier", API_IDENTIFIERS)
def test_the_api_reference_names_what_there_is(identifier):
    resolve(identifier)


@pytest.mark.parametrize(
    "identifier", ["sb3_ext.missing", "sb3_ext.REDQSAC.missing", "sb3_ext.missing.REDQSAC", "missing"]
)
def test_a_wrong_name_is_seen(identifier):
    with pytest.raises(ImportError):
        resolve(identifier)


def test_nothing_is_in_the_api_reference_twice():
    assert len(set(API_IDENTIFIERS)) == len(API_IDENTIFIERS)


# (`__version__` explains itself)
@pytest.mark.parametrize("name", [name for name in sb3_ext.__all__ if not name.startswith("_")])
def test_every_public_name_is_in_the_api_reference(name):
    assert any(resolve(identifier) is getattr(sb3_ext, name) for identifier in API_IDENTIFIERS)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in SITE_MODULES), reason='needs the extra "docs": make docs'
)
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(CONFIG)]
    result = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        cwd=tmp_path,
        # Silences what mkdocs-material prints of its own future
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "WARNING" not in result.stderr
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in PAGES}
    assert {path.relative_to(tmp_path / "site") for path in tmp_path.rglob("*.html")} >= pages
    reference = (tmp_path / "site" / "api" / "algorithms.html").read_text()
    # Roles of the Sphinx style have become links
    assert 'id="sb3_ext.REDQSAC"' in reference and ":class:" not in reference
    assert 'href="buffers.html#sb3_ext.DeviceReplayBuffer"' in reference
