"""An exception that a signal handler of the host raises in the middle of our code reaches the host."""

from __future__ import annotations

import ast
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypotest import runtime
from hypotest.interrupts import let_through
from tests.namespace import run_python
from tests.processes import goal_counts, run, said, sdk_env
from tests.server_process import ROOT, ServerProcess

OURS_ONLY = {
    *("cli", "commands", "onlooker"),
    *("backlog", "document", "durability", "leader", "leadership", "neighbours", "poller", "publisher"),
    *("quarantine", "retirement", "sender", "source", "transport", "validation"),
}
"""Where no signal handler of a host runs: our commands, our threads."""
HANDLERS_RAISE = {"Exception", "OSError", "FileNotFoundError", "TimeoutError", "RuntimeError", "ValueError"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def test_interrupts_at_any_moment_reach_the_host_and_lose_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """A handler raises 300 times inside our calls: the host sees each, and what calls that returned kept arrives."""
    source = """
import random
class SoftTimeLimitExceeded(Exception):
    pass
raised = seen = n = 0
def handler(number, frame):
    global raised
    frames = []
    while frame:
        frames.append(frame.f_code)
        frame = frame.f_back
    # What a __del__ raises, the interpreter ignores: nothing can be done about that, here or in any library.
    inside = any(code.co_filename.startswith(os.path.dirname(hypotest.__file__)) for code in frames)
    if inside and "__del__" not in (code.co_name for code in frames):
        raised += 1
        raise SoftTimeLimitExceeded
assert hypotest.wait_until_ready(10)
kept = []
class Slow:
    def __str__(self):
        return "".join(chr(65 + i % 26) for i in range(50))
tags = {"country": "DE", "odd": Slow(), "worse": 2**70}
signal.signal(signal.SIGALRM, handler)
end = time.monotonic() + 30
while raised < 300 and time.monotonic() < end:
    try:
        n += 1
        if n % 4:  # of the others, on a slow machine, each may be interrupted
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.000001, 0.0002))  # one: the next waits for its end
        hypotest.experiment("germans", visitor_id="v", tags=tags)
        hypotest.kpi_event(f"k{n}", user_id="u", tags=tags)
        kept.append(n)
    except SoftTimeLimitExceeded:
        seen += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert raised == seen > 50, (raised, seen)
assert hypotest.flush(20), hypotest.status()
status = hypotest.status()
assert status.accepted == status.delivered, status
say("kept", *kept)
"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    counts = goal_counts(server)
    assert set(counts.values()) == {1}
    assert {f"k{n}" for n in said(output, "kept").split()} <= counts.keys()


def test_what_the_host_blocks_is_not_handled_for_our_threads(server: ServerProcess, tmp_path: Path) -> None:
    """A signal that the host blocks while it holds a lock waits until the host lets it in, though our threads run."""
    source = """
keep("before", 1)
assert hypotest.wait_until_ready(10) and hypotest.flush(10)
names = [thread.name for thread in threading.enumerate() if thread.name.startswith("hypotest-")]
told = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD}
handled = set()
for number in told:
    signal.signal(number, lambda number, frame: handled.add(number))
signal.pthread_sigmask(signal.SIG_BLOCK, told)
for number in told:
    os.kill(os.getpid(), number)
say("pending", signal.sigpending() == told, "handled", handled)
for number in told:  # one by one: the frames of six at once may not fit onto the stack that faulthandler has for them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
say("then", handled == told, *sorted(names))
"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert said(output, "pending") == "True handled set()"
    assert said(output, "then") == "True hypotest-campaign hypotest-poller hypotest-sender"


GREEN = """
from gevent import monkey
monkey.patch_all()
import signal, threading
from hypotest import runtime
masks = []
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
runtime.start_thread("test", lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))).join()
print(masks == [before] == [signal.pthread_sigmask(signal.SIG_BLOCK, ())])
"""


def test_a_greenlet_blocks_no_signal_of_the_thread_it_shares_with_the_host() -> None:
    """What gevent makes of our threads runs in the host's own, which goes on hearing its signals."""
    pytest.importorskip("gevent", reason="gevent is not installed")
    assert run_python(GREEN) == "True\n"


def test_a_fault_in_a_thread_of_ours_is_still_reported() -> None:
    """faulthandler's signals stay open: blocked, the kernel would end the process without a word."""
    masks: list[set[int]] = []
    thread = runtime.start_thread("test", lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    assert thread is not None
    thread.join()
    assert signal.SIGTERM in masks[0]
    assert not masks[0] & {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


def test_an_error_of_the_callers_objects_is_no_interrupt() -> None:
    """A __str__ that raises is swallowed as ever, also while the host handles an interrupt."""

    def handler(number: int, frame: object) -> None:
        raise ValueError("interrupt")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        try:
            signal.raise_signal(signal.SIGUSR1)
        except ValueError as interrupt:
            with pytest.raises(ValueError, match="interrupt"):
                let_through(interrupt)
            try:
                int("no number")
            except ValueError as ordinary:
                let_through(ordinary)  # its context is the interrupt, and it is none itself
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_whoever_catches_what_a_handler_may_raise_lets_it_through() -> None:
    """A TimeoutError of a handler is an OSError; so would be swallowed by who only meant a missing file."""
    checked = 0
    for path in (ROOT / "hypotest").glob("*.py"):
        if path.stem in OURS_ONLY:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                caught = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)}
                calls = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
                chained = any(isinstance(each, ast.Raise) and each.cause is not None for each in ast.walk(node))
                known = {"let_through", "interrupts.let_through"} & calls or chained
                assert known or not caught & HANDLERS_RAISE, where
                checked += bool(caught & HANDLERS_RAISE)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "contextlib.suppress":
                assert not names & HANDLERS_RAISE, where
    assert checked > 20
