"""Exceptions of signal handlers, re-entry, forks in the middle of a call."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_HERE = "tests/faults/test_asynchronous.py::"

FAULTS: list[Fault] = [
    Fault(
        fault="A soft time limit, or Ctrl-C, comes in the middle of a call",
        happens="The exception reaches the host; the event of this call is kept or is not, whole; all others are kept",
        test=f"{_HERE}test_an_exception_at_every_bytecode_of_the_hot_path[kpi_event]",
        figure="4 exceptions at each bytecode of the hot calls, 341 to 535: all reach the host, 0 hidden, 0 doubled",
        removals=(
            Removal("hypotest/interrupts.py", "                    raise seen\n", "                    return\n"),
        ),
    ),
    Fault(
        fault="A signal handler raises a TimeoutError, which is an OSError, in the middle of a call",
        happens="It reaches the host, and is not taken for a full disk",
        test=f"{_HERE}test_an_exception_at_every_bytecode_of_the_hot_path[experiment]",
        figure="it was swallowed at 60 bytecodes of 371; now at none",
        removals=(
            Removal(
                "hypotest/spool.py",
                "            interrupts.let_through(error)\n            if open_segment is None",
                "            if open_segment is None",
            ),
        ),
    ),
    Fault(
        fault="A signal handler puts the former one back, and then raises",
        happens="Its exception reaches the host, too",
        test=f"{_HERE}test_a_handler_that_is_not_installed_any_more",
        figure="2 kinds of handler",
        removals=(Removal("hypotest/interrupts.py", " or _was_given(frame, caller)", ""),),
    ),
    Fault(
        fault="Thousands of exceptions come in the middle of appends",
        happens="No segment and no descriptor is lost to the process; 128 lost ones kept a leader from all others",
        test=f"{_HERE}test_ten_thousand_exceptions_leave_nothing_open",
        figure="over 10,000 exceptions, at most 4 segments and 8 more descriptors open; before, 146 after 1,800",
        removals=(
            Removal("hypotest/spool.py", "        self._finish_abandoned()\n        try:\n", "        try:\n"),
            Removal(
                "hypotest/spool.py", "        self._finish_abandoned()\n        self._spent", "        self._spent"
            ),
        ),
    ),
    Fault(
        fault="An exception comes while a segment is made",
        happens="The half-made one is closed and its draft deleted",
        test=f"{_HERE}test_an_exception_where_a_segment_is_made_leaves_no_descriptor",
        figure="each bytecode of a call that makes one, over 1,300: 0 descriptors left; before, 39",
        removals=(
            Removal(
                "hypotest/segment.py",
                '        deque(map(setattr, (self,), ("fd",), opening), 0)\n',
                "        for opened in opening:\n            self.fd = opened\n",
            ),
        ),
    ),
    Fault(
        fault="An exception comes while the first call starts the campaign",
        happens="The next call starts it: without it the process would never send, nor take over",
        test=f"{_HERE}test_an_exception_where_the_first_call_begins_what_lasts",
        figure="each bytecode of what starts it",
        removals=(Removal("hypotest/runtime.py", "    here.page = _TOO_EARLY  # until", "    # until"),),
    ),
    Fault(
        fault="An exception comes while config() puts new parameters in force",
        happens="The former client ends all the same, and its parameters are not in force beside the new ones",
        test=f"{_HERE}test_an_exception_while_a_client_is_retired",
        figure="each bytecode of it; one campaign is left",
        removals=(
            Removal(
                "hypotest/runtime.py",
                "not client.campaign.stopping:\n            client.close()",
                "False:\n            client.close()",
            ),
        ),
    ),
    Fault(
        fault="A signal handler, a destructor or a callback of the collector calls the SDK in the middle of a call",
        happens="Both events are kept, each once; nothing waits",
        test=f"{_HERE}test_a_call_at_every_bytecode_of_a_call[a signal handler]",
        figure="each bytecode of experiment and kpi_event, 3 ways: 0 hidden, 0 doubled",
        removals=(Removal("hypotest/spool.py", "open_segment = self._idle.pop()", "open_segment = self._idle[-1]"),),
    ),
    Fault(
        fault="A call comes in while another one makes a segment",
        happens="Each has a file of its own",
        test=f"{_HERE}test_a_call_while_a_segment_gets_its_number",
        figure="each bytecode of it",
        removals=(
            Removal("hypotest/instance.py", "        self.numbers = count()", "        self.numbers = 0"),
            Removal(
                "hypotest/instance.py",
                "        number = next(self.numbers)\n",
                "        number, self.numbers = self.numbers, self.numbers + 1\n",
            ),
        ),
    ),
    Fault(
        fault="A signal handler forks in the middle of a call, and both processes go on with it",
        happens="The child leaves its parent's segments alone: it would turn their position back",
        test=f"{_HERE}test_a_fork_in_the_middle_of_a_call",
        figure="os.fork at each bytecode of experiment and kpi_event: 0 hidden; before, 414 of 5,322 events",
        removals=(Removal("hypotest/runtime.py", "            client.spool.abandon()\n", "            pass\n"),),
    ),
    Fault(
        fault="A handler of logging of the application raises, or calls the SDK",
        happens="The call that logs goes on, and the events of both are kept",
        test=f"{_HERE}test_the_callers_objects_call_us",
        figure="an id, a tag and two handlers",
        removals=(
            Removal(
                "hypotest/log.py",
                "    except Exception as error:  # noqa: BLE001 - must not reach",
                "    except ZeroDivisionError as error:  # must not reach",
            ),
        ),
    ),
    Fault(
        fault="A signal handler raises while config(), or an exit, takes a process from the lead",
        happens="The lock is given back all the same: what was cut off, the campaign's own thread does again",
        test=f"{_HERE}test_an_exception_while_a_leader_steps_down",
        figure="3,307 interrupted calls of config() in a trial: it leads again after each; before, 2",
        removals=(
            Removal(
                "hypotest/leader.py",
                "            leadership = self._leadership\n            if leadership is None:\n",
                "            leadership, self._leadership = self._leadership, None\n"
                "            if leadership is None:\n",
            ),
        ),
    ),
    Fault(
        fault="The same under a debugger, where a `with` ends, as the process has just taken the lock",
        happens="It is given back, too: nobody waits for what that `with` has left taken",
        test=f"{_HERE}test_an_exception_while_a_client_is_retired_that_begins_to_lead",
        figure="each bytecode there: given back; before, one CI run of many had a process keep it that did not lead",
        removals=(
            Removal(
                "hypotest/leader.py",
                "        if not self.leading:\n            return\n        with self._ending",
                "        with self._ending",
            ),
        ),
    ),
    Fault(
        fault="A signal handler raises just as the leader has given its lock back, and another process takes it",
        happens="It counts as given back from before on: what is done again does not erase the next leader's sign",
        test=f"{_HERE}test_an_exception_while_a_lock_is_given_back",
        figure="each bytecode; before, 4 of 4 leaders that followed a slow disk's stood without a pid",
        removals=(
            Removal(
                "hypotest/lock.py",
                "        self._taken = False  # first: it may be another's as soon as it is unlocked, and an interrupt"
                " come then\n",
                "",
            ),
        ),
    ),
    Fault(
        fault="The same under a debugger, while the sender is about to count what it has settled",
        happens="The sender is told that the counts are the next leader's, and lets go of its files",
        test=f"{_HERE}test_an_exception_while_totals_are_closed",
        figure="each bytecode: told; before, it waited for ever at 3, and kept its files from the next leader",
        removals=(
            Removal(
                "hypotest/retirement.py",
                "        if self._closed:\n            return False\n        with",
                "        with",
            ),
        ),
    ),
    Fault(
        fault="A signal handler raises in a hook of a fork, which leaves the lock of our imports taken",
        happens="Who has taken the lead waits for it for 5 s, then imports what a leader needs",
        test="tests/test_election.py::test_a_follower_whose_host_left_the_lock_of_imports_taken",
        figure="leads; before, it held the lock for ever and did not lead. After 16 and 179 forks in two trials",
        removals=(Removal("hypotest/lazy.py", "importing.acquire(timeout=_PATIENCE)", "importing.acquire()"),),
    ),
    Fault(
        fault="A signal handler calls config() in the midst of stepping down, as a process ends",
        happens="It goes on: the lock of that is one that the same thread may take again",
        test="tests/test_reconfigure.py::test_a_handler_that_configures_while_the_process_ends",
        figure="6 moments: the host ends; before, 5 of 6 hung for ever",
        removals=(
            Removal("hypotest/leader.py", "self._ending = threading.RLock()", "self._ending = threading.Lock()"),
        ),
    ),
    Fault(
        fault="A signal comes that the host has blocked while it holds a lock, as a celery worker does that ends",
        happens="It waits until the host lets it in: our threads take none, and block each one in themselves",
        test="tests/test_interrupts.py::test_what_the_host_blocks_is_not_handled_for_our_threads",
        figure="6 signals, 3 threads: all wait; before, the lock between celery's workers stayed locked, and they hung",
        removals=(
            Removal(
                "hypotest/interrupts.py",
                "    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _FAULTS)\n",
                "",
            ),
        ),
    ),
    Fault(
        fault="gevent makes a greenlet of a thread of ours",
        happens="The thread that it shares with the host goes on hearing every signal",
        test="tests/test_interrupts.py::test_a_greenlet_blocks_no_signal_of_the_thread_it_shares_with_the_host",
        figure="the mask of the host's thread is the same before and after",
        removals=(Removal("hypotest/runtime.py", "if threading.get_native_id() != starter:", "if starter:"),),
    ),
]
