"""uWSGI: it forks by itself, and no hook of Python's runs; a worker ends by C's exit, in mid-request, too."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from hypotest.control import LEADER_PID
from hypotest.demo.ledger import stored_events
from tests.hosts.host import Site
from tests.hosts.proof import Proof, prove, server_of
from tests.hosts.trials import hang, kill_the_leader, recycle, reload_by
from tests.hosts.uwsgi import MASTER, OldUwsgi, Uwsgi
from tests.hosts.uwsgi_mule import PIECES
from tests.hosts.work import EVENTS
from tests.server_process import ROOT, wait_for

if not Path(sys.executable).with_name("uwsgi").exists():
    pytest.skip("uWSGI is not installed beside this Python", allow_module_level=True)


def the_agent_leads(proof: Proof) -> None:
    """The leader is a process that neither answers nor is the host's first one."""
    words = proof.site.page().words
    leader = wait_for(lambda: words[LEADER_PID], "somebody leads")
    assert leader not in proof.load.workers() | {proof.site.process.pid}


LAZY = (*MASTER, "--lazy-apps")
GEVENT = ("--gevent", "20", "--gevent-monkey-patch")
HOOKS = "--py-call-uwsgi-fork-hooks"
AFTERFORK = "--py-call-osafterfork"
AGENT = f"{sys.executable} -m hypotest agent"
GRACEFUL = ("--master", "--hook-master-start", "unix_signal:15 gracefully_kill_them_all")
# uWSGI executes itself to reload; its wheel would execute the Python of which this virtual environment is made.
RELOADABLE = ("--binary-path", sys.executable)
# Neither all at once nor with the rest of 2 s that uWSGI takes after quick ones: while no worker is there nobody polls.
RECYCLED = ("--max-requests=100", "--max-requests-delta=50", "--min-worker-lifetime=2", "--forkbomb-delay=0")
INTEGRATED = {"HOSTS_UWSGI_HOOKS": "1"}
KILL = (kill_the_leader,)
APART = {"lone": True, "stop_group": True, "statuses": (30,)}
APART_GEVENT = APART | {"statuses": (17,)}
HANG = hang("hang", "HARAKIRI ON WORKER")
RELOAD = reload_by(signal.SIGHUP)
AGENT_TRIALS = (the_agent_leads, kill_the_leader, the_agent_leads)

MODES = [
    Uwsgi("preforking, no master", trials=KILL, **APART),
    Uwsgi("preforking, no master, SDK used at load", early=True, trials=KILL, **APART),
    Uwsgi("preforking, no master, fork hooks", HOOKS, trials=KILL, **APART),
    Uwsgi("one process, no master", workers=1, trials=KILL, **APART),
    Uwsgi("one process, no master, threads", "--threads", "4", workers=1, trials=KILL, **APART),
    Uwsgi("master", *MASTER, trials=KILL),
    Uwsgi("master, SDK used in the master", *MASTER, early=True, trials=KILL),
    Uwsgi("master, stop by SIGINT", "--master", trials=KILL, stop_signal=signal.SIGINT),
    Uwsgi("master, graceful stop", *GRACEFUL, trials=KILL),
    Uwsgi("master, lazy-apps", *LAZY, trials=KILL),
    Uwsgi("master, lazy-apps, SDK used at load", *LAZY, early=True, trials=KILL),
    Uwsgi("master, enable-threads", *MASTER, "--enable-threads", trials=KILL),
    Uwsgi("master, threads, SDK used in the master", *MASTER, "--threads", "2", early=True, trials=KILL),
    Uwsgi("master, fork hooks, SDK used in the master", *MASTER, HOOKS, early=True, trials=KILL),
    Uwsgi("master, skip-atexit", *MASTER, "--skip-atexit", trials=KILL),
    Uwsgi("master, max-requests", *MASTER, *RECYCLED, workers=3, trials=(recycle,)),
    Uwsgi("master, hypotest.integrations", *MASTER, env=INTEGRATED, trials=KILL),
    Uwsgi(
        "master, lazy-apps, max-requests, hypotest.integrations",
        *LAZY,
        *RECYCLED,
        workers=3,
        env=INTEGRATED,
        trials=(recycle,),
    ),
    Uwsgi("master, harakiri", *MASTER, "--harakiri", "2", trials=(HANG, kill_the_leader)),
    Uwsgi("master, reload by SIGHUP", *MASTER, *RELOADABLE, trials=(RELOAD, kill_the_leader)),
    Uwsgi("master, lazy-apps, reload by SIGHUP", *LAZY, *RELOADABLE, trials=(RELOAD,)),
    Uwsgi("gevent", *MASTER, *GEVENT, trials=KILL),
    Uwsgi("gevent, SDK used in the master", *MASTER, *GEVENT, early=True, trials=KILL),
    Uwsgi("gevent, no master, SDK used at load", *GEVENT, early=True, trials=KILL, **APART_GEVENT),
    Uwsgi("gevent, max-requests", *MASTER, *GEVENT, *RECYCLED, workers=3, trials=(recycle,)),
    Uwsgi(
        "master, agent by attach-daemon2",
        *MASTER,
        "--attach-daemon2",
        f"cmd={AGENT},stopsignal=15",
        env={"HT_LEADER": "off"},
        trials=AGENT_TRIALS,
    ),
]
# What is not there has no user: it fails in the same way without the SDK, or was never built.
if sys.version_info < (3, 13):  # from there on, with that option, each worker of uWSGI aborts at its start
    MODES += [
        Uwsgi("master, osafterfork, SDK used in the master", *MASTER, AFTERFORK, early=True, trials=KILL),
    ]
if sys.version_info < (3, 12):  # from there on, with threads, a worker that 2.0.26 starts anew never answers
    MODES += [
        OldUwsgi("master, enable-threads", *MASTER, "--enable-threads", trials=KILL),
        OldUwsgi("master, threads, SDK used in the master", *MASTER, "--threads", "2", early=True, trials=KILL),
    ]
if sys.version_info < (3, 13):  # for which 2.0.26 was never built
    MODES += [OldUwsgi("master, no thread moves, agent", *MASTER, "--attach-daemon", AGENT, trials=AGENT_TRIALS)]


@pytest.mark.parametrize("host", MODES, ids=str)
def test_uwsgi(host: Uwsgi, tmp_path: Path) -> None:
    """In each mode of uWSGI nothing is lost or doubled, and no answer is stale."""
    prove(host, tmp_path)


def test_a_mule_leads_where_no_worker_uses_the_sdk(tmp_path: Path) -> None:
    """A mule and a spooler are no workers, and neither are they the master, in which no thread may run."""
    host = Uwsgi("master, mule", *MASTER, f"--mule={ROOT / 'tests' / 'hosts' / 'uwsgi_mule.py'}")
    done = Counter((piece, *event) for piece in PIECES for event in EVENTS)
    with server_of(tmp_path) as server, Site(host, server) as site:
        proof = Proof(host, site)
        proof.start()
        wait_for(lambda: Counter(stored_events(server.db)) == done, "the mule's work at the server, each once")
        mule = re.search(r"spawned uWSGI mule 1 \(pid: (\d+)\)", site.log())
        assert mule
        assert proof.site.page().words[LEADER_PID] == int(mule[1])
        site.stop()


def _advised(log: str) -> list[str]:
    """The pids of those who say what to do where no thread moves."""
    return re.findall(r"hypotest\[(\d+)\].*enable-threads = true.*`hypotest agent`", log)


if sys.version_info < (3, 13):

    def test_where_no_thread_moves_events_are_kept_and_one_worker_says_what_to_do(tmp_path: Path) -> None:
        """Where no thread moves, the server is never polled, every event is kept, and a worker says what to do."""
        host = OldUwsgi("master, no thread moves", *MASTER)
        with server_of(tmp_path) as server, Site(host, server) as site:
            host.before(site)
            proof = Proof(host, site)
            with proof.load:
                proof.start()
                wait_for(lambda: len(proof.load.answers) > 300, "answers")
                wait_for(lambda: _advised(site.log()), "a worker says what to do")
                site.stop()
            assert not proof.load.workers(version=1)
            advised = _advised(site.log())  # by two, if both looked at the same moment
            assert len(advised) == len(set(advised))
            assert set(advised) <= set(map(str, proof.load.workers()))
            assert server.polls() == 0
            proof.account()
