"""Functions of the user's, called 'package.module:function', and what they ask for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def function_of(name: str, key: str) -> Callable[..., Any]:
    """The function called 'package.module:function', as the configuration key `key` says.

    Raises:
      ValueError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:  # ValueError: the module's name is empty
        raise ValueError(f"{key}={name!r} cannot be imported: {e}.") from e
    if not callable(found):
        raise ValueError(f"{key}={name!r} is a {type(found).__name__}, not a function.")
    return found


def asked_for(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that the function has a parameter for."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in settings.items() if name in known}
