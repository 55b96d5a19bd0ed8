"""Late imports that a fork cannot catch half-way.

Hazard: a module lock held by another thread at the moment of a fork stays locked in the child, whose own import of that
module hangs for ever (16 of 16 in a trial). A fork hook of `runtime.py` takes `importing` too, and so waits.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from types import ModuleType

_POLL = 0.005
_PATIENCE = 5.0

importing = threading.RLock()
_importer: list[int] = []
"""The thread that has an import under way."""
_loaded: dict[str, ModuleType] = {}


def load(name: str) -> ModuleType:
    """Imports a module of the standard library or our own; ImportError passes through."""
    module = _loaded.get(name) or sys.modules.get(name)
    if module is None or getattr(module.__spec__, "_initializing", False):  # as importlib tells that one is half-way
        with importing:
            module = _import(name)
    _loaded[name] = module
    return module


def load_aside(name: str) -> ModuleType:
    """The same in a thread of ours. It does not wait for ever: an interrupt of a fork may have left the lock taken."""
    if name in _loaded:
        return _loaded[name]
    taken = importing.acquire(timeout=_PATIENCE)
    try:
        return _loaded.setdefault(name, _import(name))
    finally:
        if taken:
            importing.release()


def _import(name: str) -> ModuleType:
    try:
        _importer.append(threading.get_ident())
        return importlib.import_module(name)
    finally:
        _importer.clear()


def load_within(name: str, seconds: float) -> ModuleType | None:
    """The same, but waits so long at most for an import of another thread; returns nothing if that takes longer."""
    # Not by `acquire` with a timeout: an interrupt between that and the `try` behind it would leave the lock taken.
    deadline = time.monotonic() + seconds
    while name not in _loaded and any(other != threading.get_ident() for other in _importer):
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL)
    return load(name)


def reset() -> None:
    """In a child: a lock that nobody holds."""
    global importing  # noqa: PLW0603 - the old one may be held by a thread of the parent
    importing = threading.RLock()
    _importer.clear()
