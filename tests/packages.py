"""Packages of others that some tests need and our own environment must not have: each in a folder of its own.

The folders are in `.oracle` at the root, which is ignored, and are filled at first use. Where that cannot be done the
tests that need it are skipped, and say why; under CI they fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".oracle"
_PATIENCE = 120
_RESTS = (2.0, 15.0, 0.0)
"""Seconds after each try: pip takes some faults of an index for final."""


class Missing(Exception):
    """They are not there, and this is why."""


def installed(name: str, *requirements: str) -> Path:
    """The folder `name` with `requirements` in it, as pip's --target leaves them; nothing they depend on."""
    import pytest  # others than tests look for these packages, and may not have it

    try:
        return obtained(name, *requirements)
    except Missing as reason:
        if os.environ.get("CI"):
            pytest.fail(str(reason))
        pytest.skip(str(reason))


def obtained(name: str, *requirements: str) -> Path:
    """The same for others than tests: where it cannot be had, `Missing`."""
    folder = FOLDER / name
    for rest in _RESTS:
        if folder.is_dir():
            break
        if reason := _install(folder, requirements):
            if not rest:
                raise Missing(reason)
            time.sleep(rest)
    return folder


def _install(folder: Path, requirements: tuple[str, ...]) -> str:
    """Installs them once. Several test processes may do so at once: whoever is first moves the folder in."""
    FOLDER.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=FOLDER))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--timeout", "30", "--no-deps", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*pip, "--target", str(fresh), *requirements],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            return f"{folder.name} is not in .oracle, and pip could not install it: {last}"
        with contextlib.suppress(OSError):  # not empty: another one was first
            fresh.rename(folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{folder.name} could not be installed into .oracle: {error!r}"
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return ""
