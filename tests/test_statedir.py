"""Where the state lives, and whether it can be trusted."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from hypotest import statedir
from hypotest.errors import StorageError
from hypotest.statedir import StateDir, candidates, namespace_of, prepare
from tests.namespace import run_python

NAMESPACE = "0" * 32
MINE = pwd.getpwuid(os.geteuid()).pw_dir
FALLBACK = f"/var/tmp/hypotest-{os.geteuid()}"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away and become somebody else")


BECOME_NOBODY = f"""
import os, sys
from hypotest.errors import StorageError
from hypotest.statedir import prepare
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root.parent)): stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")]}


def refuses(root: Path, match: str) -> None:
    with pytest.raises(StorageError, match=match) as caught:
        prepare(str(root), NAMESPACE)
    assert "\n" not in str(caught.value)


def test_the_directories(tmp_path: Path) -> None:
    """All directories of a namespace are made, for their owner alone, and a second time is as good as the first."""
    state = prepare(str(tmp_path / "a" / "state"), NAMESPACE)
    assert prepare(state.root, NAMESPACE).path == state.path
    assert modes(tmp_path / "a") == dict.fromkeys(
        ["a", "a/state", "a/state/v1", f"a/state/v1/{NAMESPACE}"]
        + [f"a/state/v1/{NAMESPACE}/{name}" for name in ("spool", "quarantine")],
        0o700,
    )
    assert (state.spool, state.quarantine) == (f"{state.path}/spool", f"{state.path}/quarantine")
    assert state.lock == f"{state.path}/leader.lock"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o177, 0o777])
def test_any_umask(tmp_path: Path, umask: int) -> None:
    """The modes do not depend on the application's umask, which neither opens nor closes what we make."""
    before = os.umask(umask)
    try:
        prepare(str(tmp_path / "x" / "state"), NAMESPACE)
    finally:
        os.umask(before)
    assert set(modes(tmp_path / "x").values()) == {0o700}


def test_modes_are_mended(tmp_path: Path) -> None:
    """What someone opened below the root is closed again."""
    state = prepare(str(tmp_path / "state"), NAMESPACE)
    for path in (state.path, state.spool, state.quarantine):
        os.chmod(path, 0o755)
    prepare(state.root, NAMESPACE)
    assert set(modes(tmp_path / "state").values()) == {0o700}


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_root_that_others_can_write(tmp_path: Path, mode: int) -> None:
    """A directory in which others can exchange files is not used."""
    root = tmp_path / "state"
    root.mkdir()
    root.chmod(mode)
    refuses(root, "can be written by others")
    assert list(root.iterdir()) == []


def test_a_root_that_others_can_read(tmp_path: Path) -> None:
    """systemd makes 0755: others cannot write, and what is below is ours alone."""
    root = tmp_path / "state"
    root.mkdir(mode=0o755)
    prepare(str(root), NAMESPACE)
    assert stat.S_IMODE((root / "v1").stat().st_mode) == 0o700


@pytest.mark.parametrize("below", ["", "v1", f"v1/{NAMESPACE}", f"v1/{NAMESPACE}/spool"])
def test_symbolic_links(tmp_path: Path, below: str) -> None:
    """Whichever directory is a symbolic link, it is not followed."""
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    link = tmp_path / "state" / below if below else tmp_path / "state"
    link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    link.symlink_to(target)
    refuses(tmp_path / "state", "symbolic link")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("below", ["", "v1", f"v1/{NAMESPACE}", f"v1/{NAMESPACE}/quarantine"])
def test_files_in_the_way(tmp_path: Path, below: str) -> None:
    """A file where a directory should be is one short error, and stays as it is."""
    path = tmp_path / "state" / below if below else tmp_path / "state"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text("mine")
    refuses(tmp_path / "state", "not a directory")
    assert path.read_text() == "mine"


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    """So is a file above the directory."""
    (tmp_path / "file").write_text("")
    refuses(tmp_path / "file" / "state", "cannot be used")


@as_root
@pytest.mark.parametrize("below", ["", "v1", f"v1/{NAMESPACE}", f"v1/{NAMESPACE}/spool"])
def test_directories_of_somebody_else(tmp_path: Path, below: str) -> None:
    """A directory of another user is not used, not even by root."""
    prepare(str(tmp_path / "state"), NAMESPACE)
    os.chown(tmp_path / "state" / below, NOBODY, -1)
    refuses(tmp_path / "state", f"belongs to user {NOBODY}")


@as_root
def test_a_directory_that_cannot_be_written(shared: Path) -> None:
    """To a plain user, a parent without write permission is one short error."""
    child = """
try:
    prepare(sys.argv[1], "0" * 32)
except StorageError as error:
    print(error)
"""
    said = run_python(BECOME_NOBODY + child, shared / "x")
    assert said.startswith(f"{shared}/x cannot be used: {shared}/x: Permission denied (")


def test_an_explicit_directory_comes_first() -> None:
    """What is configured is tried before our own in /var/tmp, and nothing else is."""
    assert list(candidates("/srv/state", {"STATE_DIRECTORY": "/x", "HOME": MINE})) == ["/srv/state", FALLBACK]


def test_a_directory_has_one_name(tmp_path: Path) -> None:
    """By whichever links and dots its parent is reached: a process knows its own files by their path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    spelled = [f"{tmp_path}/real/state", f"{tmp_path}/link/state", f"{tmp_path}/real/../link/./state/"]
    assert {next(iter(candidates(each, {}))) for each in spelled} == {f"{tmp_path}/real/state"}


def test_the_order_of_the_environment() -> None:
    """systemd's directory, then XDG's, then the home's, then our own in /var/tmp; several of systemd's: the first."""
    environ = {"STATE_DIRECTORY": "/var/lib/app:/var/lib/b", "XDG_STATE_HOME": "/xdg", "HOME": MINE}
    home = f"{MINE}/.local/state/hypotest"
    assert list(candidates(None, environ)) == ["/var/lib/app", "/xdg/hypotest", home, FALLBACK]
    assert list(candidates(None, {"XDG_STATE_HOME": "relative", "STATE_DIRECTORY": "relative"}))[-1] == FALLBACK


def test_the_state_directory_of_a_dynamic_user(tmp_path: Path) -> None:
    """systemd makes a link to it, which its `STATE_DIRECTORY` names."""
    (tmp_path / "private" / "shop").mkdir(parents=True, mode=0o700)
    (tmp_path / "shop").symlink_to("private/shop")
    first = next(iter(candidates(None, {"STATE_DIRECTORY": f"{tmp_path}/shop"})))
    assert first == f"{tmp_path}/private/shop"
    prepare(first, NAMESPACE)


@as_root
def test_a_home_of_somebody_else(tmp_path: Path) -> None:
    """After a privilege drop HOME is often still root's: the home of the effective user counts, if it is theirs."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, -1)
    assert f"{theirs}/.local/state/hypotest" not in list(candidates(None, {"HOME": str(theirs)}))
    assert f"{MINE}/.local/state/hypotest" in list(candidates(None, {"HOME": str(theirs)}))


def test_a_home_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without a home, or without a passwd entry as in many containers, gets the directory in /var/tmp."""

    def unknown(_uid: int) -> None:
        raise KeyError

    statedir._home_of.cache_clear()
    monkeypatch.setattr(statedir.pwd, "getpwuid", unknown)
    assert list(candidates(None, {"HOME": str(tmp_path / "gone")})) == [FALLBACK]
    assert list(candidates(None, {"HOME": "relative"})) == [FALLBACK]
    assert list(candidates(None, {})) == [FALLBACK]


def test_namespaces() -> None:
    """Server and token together name a namespace, in 128 bits that do not disclose the token."""
    names = [namespace_of(url, token) for url in ("https://a", "https://b") for token in ("x", "y")]
    assert len(set(names)) == 4
    assert all(len(name) == 32 and int(name, 16) for name in names)
    assert namespace_of("https://a", "x") == names[0]


def test_other_namespaces(tmp_path: Path) -> None:
    """A namespace knows its neighbours, and takes no file for one."""
    state = prepare(str(tmp_path / "state"), NAMESPACE)
    prepare(state.root, "1" * 32)
    Path(state.root, "v1", "file").write_text("")
    Path(state.root, "v1", "link").symlink_to(tmp_path)
    assert [other.namespace for other in state.others()] == ["1" * 32]
    assert StateDir(str(tmp_path / "gone"), NAMESPACE).others() == []
