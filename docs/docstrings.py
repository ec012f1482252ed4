"""
Conversion of docstrings in the format of Transformers to Markdown, for the API pages (a griffe extension).

Each parameter becomes a list item, which keeps types and shapes as written.
"""

import re

import griffe

SECTIONS = {
    "Args": "Parameters",
    "Attributes": "Attributes",
    "Class attributes": "Class attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
}
# "name, other (`type`, *optional*): description", or an exception in "Raises".
ENTRY = re.compile(r"(\*{0,2}\w+(?:(?:, | or )\*{0,2}\w+)*)((?: \([^:]*\))?):(?: |$)(.*)")
# Links of Transformers: [`CXRVQTokenizer`], and [`~CXRVQTokenizer.encode`], which is shown as "encode".
LINK = re.compile(r"\[`(?:~[\w.]*?)?(\w[\w.]*)`\]")


def to_markdown(docstring: str) -> str:
    """Return a docstring with sections as headings and entries as lists."""
    lines, section = [], ""
    for line in LINK.sub(r"`\1`", docstring).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            section = line.rstrip(":")
            lines += ["", f"**{SECTIONS[section]}**", ""]
            continue
        if line and not line.startswith(" "):
            # Entries of a configuration or a record have no section.
            section = ""
        indented = line.removeprefix("    ") if section else line
        entry = None if section in ("Returns", "Yields") else ENTRY.match(indented)
        if entry and (section or entry[2].startswith(" (`")):
            names = re.sub(r"[*\w]+(?=, | or |$)", r"`\g<0>`", entry[1])
            # Without the empty line, a list inside an entry would include the next entry.
            lines += ["", f"- {names}{entry[2]}: {entry[3]}".rstrip()]
        else:
            lines.append(indented)
    return "\n".join(lines)


class TransformersDocstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
