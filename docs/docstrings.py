"""
Docstrings in the grammar of Transformers as Markdown, for the API pages (a griffe extension, named in mkdocs.yml).

Each parameter becomes an item of a list, so that types with their shapes are shown as they are written.
"""

import re

import griffe

SECTIONS = {
    "Args": "Parameters",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
}
# "name, other (`type`, *optional*): what it is", and in "Raises" an exception.
ENTRY = re.compile(r"(\*{0,2}\w+(?:(?:, | or )\*{0,2}\w+)*)((?: \([^:]*\))?):(?: |$)(.*)")
# [`CXRVQTokenizer`] is a link in the documentation of Transformers, and [`~CXRVQTokenizer.encode`] one named "encode".
LINK = re.compile(r"\[`(?:~[\w.]*?)?(\w[\w.]*)`\]")


def to_markdown(docstring: str) -> str:
    """A docstring whose sections are headings, and whose entries are lists."""
    lines, section = [], ""
    for line in LINK.sub(r"`\1`", docstring).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            section = line.rstrip(":")
            lines += ["", f"**{SECTIONS[section]}**", ""]
            continue
        if line and not line.startswith(" "):
            # Fields of a configuration or of a record are entries without a section.
            section = ""
        indented = line.removeprefix("    ") if section else line
        entry = None if section in ("Returns", "Yields") else ENTRY.match(indented)
        if entry and (section or entry[2].startswith(" (`")):
            names = re.sub(r"[*\w]+(?=, | or |$)", r"`\g<0>`", entry[1])
            # A list inside of an entry would take the next one in without an empty line.
            lines += ["", f"- {names}{entry[2]}: {entry[3]}".rstrip()]
        else:
            lines.append(indented)
    return "\n".join(lines)


class TransformersDocstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
