"""Late imports that a fork cannot catch half-way.

Hazard: a module lock held by another thread at the moment of a fork stays locked in the child, whose own import of that
module hangs for ever (16 of 16 in a trial). A fork hook of `runtime.py` takes `importing` too, and so waits.
"""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

importing = threading.RLock()
_loaded: dict[str, ModuleType] = {}


def load(name: str) -> ModuleType:
    """Imports a module of the standard library or our own; ImportError passes through."""
    module = _loaded.get(name)
    if module is None:
        with importing:
            module = _loaded[name] = importlib.import_module(name)
    return module


def load_within(name: str, seconds: float) -> ModuleType | None:
    """The same, but waits so long at most for an import of another thread; returns nothing if that takes longer."""
    if name not in _loaded:
        lock = importing
        if not lock.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX)):
            return None
        try:
            return load(name)
        finally:
            lock.release()
    return _loaded[name]


def reset() -> None:
    """In a child: a lock that nobody holds."""
    global importing  # noqa: PLW0603 - the old one may be held by a thread of the parent
    importing = threading.RLock()
