"""Where the state lives: the choice of the directory, the name of the namespace, and whether both can be trusted.

<state_dir>/v1/<namespace>/          every directory 0700, ours, no symlink
    leader.lock  control  settings-<generation>.snap  spool/  quarantine/
"""

from __future__ import annotations

import os
import pwd
import stat
from _blake2 import blake2b  # hashlib, which has the same, loads OpenSSL: a tenth of what our import may cost
from collections.abc import Iterator, Mapping
from functools import lru_cache

from hypotest import interrupts, platform
from hypotest.errors import StorageError

FORMAT = "v1"
_RWX = os.R_OK | os.W_OK | os.X_OK
_FALLBACK_PARENT = "/var/tmp"  # noqa: S108 - not /tmp, which cleaners empty; the directory in it is verified to be ours


class StateDir:
    """The directory of one namespace: one server and token, of one user, on one host."""

    __slots__ = ("namespace", "root")

    def __init__(self, root: str, namespace: str) -> None:
        self.root = root
        self.namespace = namespace

    @property
    def path(self) -> str:
        """The namespace's own directory."""
        return f"{self.root}/{FORMAT}/{self.namespace}"

    @property
    def spool(self) -> str:
        """Where segments are."""
        return f"{self.path}/spool"

    @property
    def quarantine(self) -> str:
        """Where events are that were refused for good or could not be read."""
        return f"{self.path}/quarantine"

    @property
    def lock(self) -> str:
        """The leader's lock file."""
        return f"{self.path}/leader.lock"

    def whole(self) -> bool:
        """Whether the directories that `prepare` made are still there."""
        return os.path.isdir(self.spool) and os.path.isdir(self.quarantine)

    def spool_bytes(self) -> int:
        """The bytes of the files in the spool directory; 0 if it is gone."""
        return platform.directory_size(self.spool)

    def others(self) -> list[StateDir]:
        """The other namespaces of this state directory: other servers, other or former tokens."""
        try:
            with os.scandir(f"{self.root}/{FORMAT}") as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            interrupts.let_through(error)
            return []
        return [StateDir(self.root, name) for name in names if name != self.namespace]


def namespace_of(server_url: str, token: str) -> str:
    """128 bits of BLAKE2b over server URL and token: names the pair without disclosing the token."""
    return blake2b(f"{server_url}\0{token}".encode(), digest_size=16).hexdigest()


def candidates(explicit: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Directories to try, best first: explicit, systemd's, XDG's, the home's, and one of our own in /var/tmp."""
    yield from map(canonical, _candidates(explicit, environ))


def canonical(root: str) -> str:
    """A directory by the one name that all processes, and all configurations of a process, know it by.

    But for its last part: if that is a link, somebody else may have made it, and `prepare` refuses it.
    """
    parent, name = os.path.split(os.path.normpath(root))
    return os.path.join(os.path.realpath(parent), name)


def _candidates(explicit: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    if explicit:
        yield explicit
    else:
        if systemd := of_systemd(environ):
            yield systemd
        xdg = environ.get("XDG_STATE_HOME", "")
        if xdg.startswith("/"):
            yield f"{xdg}/hypotest"
        home = _home(environ)
        if home:
            yield f"{home}/.local/state/hypotest"
    yield f"{_FALLBACK_PARENT}/hypotest-{os.geteuid()}"


def of_systemd(environ: Mapping[str, str]) -> str | None:
    """The unit's `StateDirectory`. With `DynamicUser` it is a link that systemd made: what that leads to counts."""
    named = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return os.path.realpath(named) if named.startswith("/") else None


def _home(environ: Mapping[str, str]) -> str | None:
    """HOME if it is the effective user's own, else the passwd entry's: HOME is often stale after a privilege drop."""
    for find in (lambda _: environ.get("HOME", ""), _home_of):
        with interrupts.suppress(OSError, KeyError):
            home = find(os.geteuid())
            if home.startswith("/") and os.stat(home).st_uid == os.geteuid():
                return home
    return None


@lru_cache(maxsize=4)  # the leader asks each minute, and the answer may come over a network
def _home_of(user: int) -> str:
    return pwd.getpwuid(user).pw_dir


def prepare(root: str, namespace: str) -> StateDir:
    """Creates and checks the directories of a namespace under `root`.

    Raises:
        StorageError: one cannot be made or written, is a symlink, or is not ours alone.
    """
    state = StateDir(root, namespace)
    try:
        _make(root)
        _check(root, forbidden=stat.S_IWGRP | stat.S_IWOTH)
        for path in (f"{root}/{FORMAT}", state.path, state.spool, state.quarantine):
            with interrupts.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            _check(path, forbidden=0)
            if stat.S_IMODE(os.lstat(path).st_mode) != stat.S_IRWXU:
                os.chmod(path, stat.S_IRWXU)
        if not os.access(state.spool, _RWX, effective_ids=os.access in os.supports_effective_ids):
            raise StorageError(f"{state.spool} is not writable")
    except StorageError:
        raise
    except OSError as error:
        interrupts.let_through(error)
        raise StorageError(f"{root} cannot be used: {describe(error)}") from error
    return state


def examine(root: str, namespace: str) -> StateDir | None:
    """The namespace under `root`, for who only looks: the checks of `prepare`; makes and changes nothing.

    Returns:
        None if it is not there.

    Raises:
        StorageError: `prepare` would refuse it, or we may not look.
    """
    state = StateDir(root, namespace)
    try:
        _check(root, forbidden=stat.S_IWGRP | stat.S_IWOTH)
        for path in (f"{root}/{FORMAT}", state.path):
            _check(path, forbidden=0)
        for path in (state.spool, state.quarantine):
            with interrupts.suppress(FileNotFoundError):  # prepare makes them again
                _check(path, forbidden=0)
        if os.path.lexists(state.spool) and not os.access(
            state.spool, _RWX, effective_ids=os.access in os.supports_effective_ids
        ):
            raise StorageError(f"{state.spool} is not writable")
    except FileNotFoundError as error:
        interrupts.let_through(error)
        return None
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(describe(error, root)) from error
    return state


def describe(error: OSError, path: str = "") -> str:
    """One line for people: which path, what is wrong with it and, where we may not, whose it is and who we are."""
    named = error.filename if isinstance(error.filename, str) else path
    told = ": ".join(filter(None, (named, error.strerror or str(error) or type(error).__name__)))
    if not isinstance(error, PermissionError) or not named:
        return told
    while named:
        with interrupts.suppress(OSError):
            found = os.lstat(named)
            whose = f"belongs to user {_user(found.st_uid)}, we are {_user(os.geteuid())}"
            mode = f"is ours and has the mode {stat.S_IMODE(found.st_mode):o}"
            return f"{told} ({named} {mode if found.st_uid == os.geteuid() else whose})"
        named = os.path.dirname(named) if named != "/" else ""
    return told


def _user(number: int) -> str:
    with interrupts.suppress(KeyError):
        return f"{number} ({pwd.getpwuid(number).pw_name})"
    return str(number)


def _make(path: str) -> None:
    # Not os.makedirs: its parents would get the umask's mode, which may be open to all.
    if os.path.lexists(path):
        return
    _make(os.path.dirname(path))
    with interrupts.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # the umask may have taken from it what we need


def _check(path: str, forbidden: int) -> None:
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise StorageError(f"{path} is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{path} is not a directory")
    if found.st_uid != os.geteuid():
        raise StorageError(f"{path} belongs to user {_user(found.st_uid)}, not to {_user(os.geteuid())}")
    if found.st_mode & forbidden:
        raise StorageError(f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):o})")
