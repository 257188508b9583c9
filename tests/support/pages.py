"""The pages of the documentation, and the code in them."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# What `python -m sb3_ext.experiments redraw` writes beside its CSV is read in the repository, not on the site
PAGES = sorted(page for page in (REPOSITORY / "docs").rglob("*.md") if page.name != "table.md")
README_AND_PAGES = [REPOSITORY / "README.md", *PAGES]


def code_blocks(page: Path, language: str = r"\w+") -> list[str]:
    """
    :param page: a file of Markdown
    :param language: a regular expression, by default for any
    :return: the code of its blocks in this language
    """
    return re.findall(rf"^ *```{language}$\n(.*?)^ *```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
