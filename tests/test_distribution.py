"""What is handed out: the wheel has the package and nothing else, and asks for three libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.packages import installed
from tests.server_process import ROOT

CORE = {"requests", "orjson", "mmh3"}
BUILD = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_wheel(out); b.build_sdist(out)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and source distribution, built of a copy of the project."""
    setuptools = installed("setuptools", "setuptools>=77")
    copy, out = tmp_path_factory.mktemp("project") / "copy", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(setuptools)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    """The files of the wheel, by name."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    (name,) = (name for name in wheel if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel[name])


def test_the_wheel_has_the_package_and_nothing_else(wheel: dict[str, bytes]) -> None:
    """Every file of the package, as it is here; no tests, no examples, no data, no path that leaves its folder."""
    expected = {
        str(path.relative_to(ROOT)) for path in (ROOT / "hypotest").rglob("*") if path.suffix in (".py", ".typed")
    }
    found = {name for name in wheel if ".dist-info/" not in name}
    assert found == expected
    for name in found:
        assert wheel[name] == (ROOT / name).read_bytes(), name


def test_it_is_pure_python(built: Path) -> None:
    """Nothing is compiled, so nothing comes with it that cannot be read."""
    assert [path.name.endswith("-py3-none-any.whl") for path in built.glob("*.whl")] == [True]


def test_it_needs_three_libraries(metadata: Message) -> None:
    """What is installed without an extra: requests, orjson, mmh3, and what they need."""
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">=")[0].strip() for line in required} == CORE


def test_the_source_distribution_has_no_secrets(built: Path) -> None:
    """No hidden file, no environment, no database, and no path that leaves its folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    for member in members:
        parts = Path(member.name).parts
        assert member.isfile() or member.isdir(), member.name
        assert ".." not in parts
        assert not any(part.startswith(".") or part.endswith((".db", ".log", ".pem")) for part in parts), member.name
