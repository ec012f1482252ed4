"""What is wrong where weights are not those of a model, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def mismatch(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Which tensors are missing, left over or of another shape, given shapes by name; "" where all are as expected."""
    problems = {
        "are missing": [name for name in expected if name not in found],
        "are left over": [name for name in found if name not in expected],
        "have another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    return "; ".join(f"{len(names)} tensors {problem}: {some(names)}" for problem, names in problems.items() if names)


__all__ = ["mismatch", "some"]
