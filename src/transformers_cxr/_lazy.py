"""Public names of a package that are imported at their first use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module


def lazy_exports(package: str, names: dict[str, tuple[str, ...]]) -> tuple[Callable, Callable, list[str]]:
    """
    Return the `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package (`str`): its `__name__`.
        names (`dict[str, tuple[str, ...]]`): the public names of each module, which is relative to the package
        (".records").
    """
    module_of = {name: module for module, exported in names.items() for name in exported}

    def __getattr__(name: str):
        if name not in module_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(module_of[name], package), name)

    return __getattr__, lambda: sorted(module_of), sorted(module_of)
