"""
For ``mkdocs.yml``: what the docstrings of this package contain besides fields such as ``:param x:``.

griffe's parser of the Sphinx style reads the fields alone, and their text becomes Markdown. Here cross-references
(``:class:`~sb3_ext.iqn.IQN```) become links, code blocks such as Markdown has them, and paragraphs behind the first
field, which the parser takes for a part of the field above them, go before it.
"""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")
_CODE_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?: {4}.*)?(?:\n|\Z))+)", re.MULTILINE)

#: Code, addresses and the names of fields, or what would be emphasis elsewhere
_EMPHASIS = re.compile(r"(``[^`]*``|`[^`]*`|https?://\S+|^:[^:\n]*:)|([*_])", re.MULTILINE)


def _full_path(obj: griffe.Object, name: str) -> str:
    """
    :param obj: in whose docstring the name stands
    :param name: as it stands there
    :return: with its module
    """
    head, dot, tail = name.partition(".")
    try:
        return obj.resolve(head) + dot + tail
    except griffe.NameResolutionError:
        return name


def _with_links(obj: griffe.Object, text: str) -> str:
    def link(match: re.Match[str]) -> str:
        shortened, name = match.groups()
        shown = name.rpartition(".")[2] if shortened else name
        # Optional: what is not in the reference, as private names, is shown and leads nowhere
        return f'<autoref optional identifier="{_full_path(obj, name)}"><code>{shown}</code></autoref>'

    return _ROLE.sub(link, text)


def _with_fences(text: str) -> str:
    def fence(match: re.Match[str]) -> str:
        language, code = match.groups()
        code = re.sub("^ {4}", "", code.rstrip(), flags=re.MULTILINE)
        return f"```{language}\n{code}\n```\n\n"

    # What follows "text::" is indented, and so a code block in Markdown, too
    return re.sub(r"::$", ":", _CODE_BLOCK.sub(fence, text), flags=re.MULTILINE)


def _without_emphasis(text: str) -> str:
    # No docstring of this package emphasises, and Q'_i, Q'_j would
    paragraphs = [
        # (Code blocks are indented)
        paragraph if paragraph.startswith(" ") else _EMPHASIS.sub(lambda found: found[1] or "\\" + found[2], paragraph)
        for paragraph in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def _with_paragraphs_first(text: str) -> str:
    paragraphs = text.split("\n\n")
    is_field = [paragraph.startswith(":") for paragraph in paragraphs]
    if True not in is_field:
        return text
    # (A field's own further paragraphs are indented)
    first = is_field.index(True)
    moved = [paragraph for paragraph in paragraphs[first:] if not paragraph.startswith((":", " "))]
    kept = [paragraph for paragraph in paragraphs[first:] if paragraph.startswith((":", " "))]
    return "\n\n".join([*paragraphs[:first], *moved, *kept])


def _comment_above(obj: griffe.Object) -> griffe.Docstring | None:
    """
    :param obj: an attribute
    :return: what the lines before it say that begin with ``#:``, if there are any
    """
    if obj.lineno is None:
        return None
    comment: list[str] = []
    for line in reversed(obj.lines_collection[obj.filepath][: obj.lineno - 1]):
        if not line.lstrip().startswith("#:"):
            break
        comment.insert(0, line.lstrip().removeprefix("#:").strip())
    return griffe.Docstring("\n".join(comment), parent=obj) if comment else None


class SphinxMarkup(griffe.Extension):
    """
    An extension of griffe that rewrites each docstring before it is parsed.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """
        :param pkg: a package, once all of its modules are there, so that names can be resolved
        """
        self._rewrite(pkg)

    def _rewrite(self, obj: griffe.Object) -> None:
        if obj.is_attribute and obj.docstring is None:
            obj.docstring = _comment_above(obj)
        if obj.docstring is not None:
            text = _without_emphasis(_with_paragraphs_first(obj.docstring.value))
            text = _with_links(obj, _with_fences(text))
            if isinstance(obj, griffe.Class) and "NamedTuple" in map(str, obj.bases):
                # Whose constructor griffe does not know: fields of the docstring are attributes all the same
                text = re.sub(r"^:param ", ":var ", text, flags=re.MULTILINE)
            obj.docstring.value = text
        for member in obj.members.values():
            if not member.is_alias:
                self._rewrite(member)
