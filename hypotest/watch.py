"""The end of other processes. A follower waits for the leader's: it sleeps longer, and wakes at once when it matters.

A pidfd becomes readable when its process ends. It is of use only in the leader's own pid namespace, since another one
has another process of the same number, or none.
"""

from __future__ import annotations

import os
import sys

from hypotest import lazy
from hypotest.interrupts import let_through, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select

_PACE = 0.25  # a leader that signs off and lives on is noticed after so long


def pid_space() -> int:
    """The pid namespace of this process, as a number other than 0; 0 where it cannot be told."""
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def may_live(pid: int) -> bool:
    """Whether a process of that pid may be alive; a hint only, since it may be another's or of another namespace."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:  # a damaged word may be no pid at all
        let_through(error)
        return not isinstance(error, (ProcessLookupError, OverflowError))
    return pid != 0


def _pace() -> float:
    """Seconds for which a poll may wait; 0 where it would hold up others than us.

    That is under eventlet, and under gevent unless it has patched `select` as well. A greenlet's wait costs several
    times as much as a thread's: hence fewer of them.
    """
    if "eventlet" in sys.modules:
        return 0.0
    patched = getattr(sys.modules.get("gevent.monkey"), "is_module_patched", lambda _: False)
    if patched("threading"):
        return 2 * _PACE if patched("select") else 0.0
    return _PACE


class Watch:
    """Waits for the end of one process after another.

    Attributes:
        pid: the one it was last turned to; 0 before.
    """

    def __init__(self) -> None:
        self._space = pid_space() if hasattr(os, "pidfd_open") else 0
        self.pid = 0
        self._fd = -1
        self._pace = 0.0
        self._poll: select.poll | None = None

    def on(self, pid: int, space: int) -> bool:
        """Turns to the process `pid` of the namespace `space`; returns whether `wait` can tell its end.

        A process whose end was told already cannot be waited for again.
        """
        if pid != self.pid:
            self.close()
            self.pid = pid
            self._pace = _pace()
            if pid and space and space == self._space and self._pace:
                self._open(pid)
        return self._poll is not None

    def _open(self, pid: int) -> None:
        # Gone, or forbidden; a kernel before 5.3; a damaged word that is no pid.
        with suppress(OSError, ImportError, AttributeError, OverflowError):
            select = lazy.load_aside("select")
            poll = select.poll()
            self._fd = os.pidfd_open(pid)
            poll.register(self._fd, select.POLLIN)
            self._poll = poll

    def wait(self) -> bool:
        """Waits for a fraction of a second at most; returns whether the process has ended."""
        seen = self._poll.poll(self._pace * 1000) if self._poll is not None else []
        if not seen:
            return False
        ours = self._ours()
        self.close()
        return ours

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._ours():
            os.close(self._fd)
        self.forget()

    def _ours(self) -> bool:
        """Whether the number is still our descriptor's: a host that becomes a daemon may close all it finds."""
        with suppress(OSError):
            return self._fd >= 0 and "pidfd" in os.readlink(f"/proc/self/fd/{self._fd}")
        return False

    def forget(self) -> None:
        """In a child: the descriptor stays open, since its number may be another's by now."""
        self._fd, self._poll = -1, None
