"""Processes that end, stop or multiply: workers, leaders, hosts."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

FAULTS = [
    Fault(
        fault="Workers are SIGKILLed, by the OOM killer for example",
        happens="Another process delivers what they had accepted",
        test="tests/test_kill.py::test_four_killed_workers_lose_nothing",
        figure="4 workers of 1,000 events each killed at once: 4,000 delivered, each once",
        removals=(
            Removal(
                "hypotest/segment.py",
                "self.map = platform.map_file(fd, min(size, most))",
                "self.map = mmap.mmap(fd, min(size, most), flags=mmap.MAP_PRIVATE)",
            ),
        ),
    ),
    Fault(
        fault="A leader loses its place while it publishes settings",
        happens="Its successor's settings of the same number stay; what it has prepared is thrown away",
        test="tests/test_snapshot.py::test_a_publisher_that_is_deposed_half_way_replaces_nothing[before it renames]",
        figure="at two moments of a publication",
        removals=(
            Removal(
                "hypotest/publisher.py", "        if not self._is_closed():  # a succ", "        if self:  # a succ"
            ),
        ),
    ),
    Fault(
        fault="Everything at once: processes and server killed, stopped and forked, the disk full, clocks wrong",
        happens="Every accepted event is counted once, and the accounts add up",
        test="tests/faults/test_chaos.py::test_a_short_run",
        figure="an hour: 5,726 kills, 4,225,069 events accepted, 0 lost, 0 counted twice, 0 unexplained",
        removals=(
            Removal(
                "hypotest/sender.py",
                "        try:\n            self._send(batch.ids, batch.payloads)\n",
                "        self._backlog.settle(batch, [DELIVERED] * len(batch.ids))\n"
                "        try:\n            self._send(batch.ids, batch.payloads)\n",
            ),
        ),
    ),
    Fault(
        fault="A worker ends by os._exit, exec or a recycling host, without exit handlers",
        happens="Nothing: the event was in a file when the call returned",
        test="tests/test_kill.py::test_an_end_without_exit_handlers_loses_nothing",
        figure="3 ways to end right after the first call: the event is delivered",
        removals=(
            Removal(
                "hypotest/spool.py",
                "            words[POSITION] = position + ONE + (length + 15 & -8)  # publish last\n",
                "            import atexit\n"
                "            atexit.register(words.__setitem__, POSITION, position + ONE + (length + 15 & -8))\n",
            ),
            Removal(
                "hypotest/source.py",
                "        return end if self.orphan else min(end, self.segment.position() & OFFSET)\n",
                "        return min(end, self.segment.position() & OFFSET)\n",
            ),
        ),
    ),
    Fault(
        fault="The leader is SIGKILLed",
        happens="Another process polls and sends within a second",
        test="tests/test_election.py::test_another_process_leads_after_each_kill[told by the kernel]",
        figure="10 kills among 6 processes: 10 takeovers, each event once",
        removals=(
            Removal(
                "hypotest/leader.py",
                "return beat == 0 or now - self._beat_at >= STALE",
                "return beat == 0",
            ),
        ),
    ),
    Fault(
        fault="The leader is killed where the kernel cannot tell its end: another pid namespace, an old kernel",
        happens="The others notice that its heart stands still, and one takes over, half a second later than otherwise",
        test="tests/test_election.py::test_another_process_leads_after_each_kill[by the heartbeat]",
        figure="10 kills among 6 processes: 10 takeovers",
        removals=(
            Removal(
                "hypotest/leader.py",
                "return beat == 0 or now - self._beat_at >= STALE",
                "return beat == 0 or now - self._beat_at >= 60",
            ),
        ),
    ),
    Fault(
        fault="The leader is stopped (SIGSTOP, a debugger) and keeps its lock",
        happens="Events are kept and wait; one line in the log says that the leader does not move",
        test="tests/test_election.py::test_a_stopped_leader_delays_and_loses_nothing",
        figure="1 line; all delivered when it moves again",
        removals=(
            Removal(
                "hypotest/leader.py",
                'self._complain(f"the leader (pid {pid}) holds its lock but does not move: is it stopped?")',
                "pass",
            ),
        ),
    ),
    Fault(
        fault="The leader's lock file is deleted while it leads",
        happens="It steps down, and one leader is elected on the new file",
        test="tests/test_election.py::test_an_unlinked_lock_file_does_not_leave_two_leaders",
        figure="within a second",
        removals=(
            Removal(
                "hypotest/leader.py",
                "if leadership is not None and not self._lock.held():",
                "if leadership is not None and False:",
            ),
        ),
    ),
    Fault(
        fault="Many workers start on one host",
        happens="One polls and sends for all",
        test="tests/test_election.py::test_a_host_polls_once_an_interval",
        figure="8 processes make the polls of 1",
        removals=(
            Removal(
                "hypotest/lock.py",
                "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
                "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
            ),
            Removal(
                "hypotest/leader.py",
                "return beat == 0 or now - self._beat_at >= STALE",
                "return True",
            ),
        ),
    ),
    Fault(
        fault="A process forks at work, and no fork hook runs",
        happens="Parent and child each keep their own events, each once",
        test="tests/test_fork.py::test_a_fork_whose_hooks_do_not_run_loses_and_doubles_nothing",
        figure="every scenario of children, grandchildren and threads: each event once",
        removals=(
            Removal(
                "hypotest/platform.py",
                "_wipe_on_fork_page() or PidPage()",
                "memoryview(bytes((1,)))",
            ),
        ),
    ),
    Fault(
        fault="The leader forks and is killed, and its idle child lives on",
        happens="The child holds no lock: another process takes over",
        test="tests/test_fork.py::test_a_child_does_not_keep_its_dead_parents_lock",
        figure="the other child leads within 10 s, each event once",
        removals=(
            Removal(
                "hypotest/runtime.py",
                "        self.ran = True\n        _abandon(_here)\n",
                "        self.ran = True\n",
            ),
        ),
    ),
    Fault(
        fault="A process forks while the leader's thread imports a module",
        happens="The fork waits for the import, and the child can import the same",
        test="tests/test_fork.py::test_a_fork_waits_for_the_leaders_import",
        figure="0 hung",
        removals=(
            Removal(
                "hypotest/runtime.py",
                "    def _before(self) -> None:\n        lazy.importing.acquire(timeout=_FORK_PATIENCE)\n",
                "    def _before(self) -> None:\n        pass\n",
            ),
        ),
    ),
    Fault(
        fault="A process forks without hooks while a thread logs",
        happens="The child can log all the same",
        test="tests/test_fork.py::test_a_fork_while_a_thread_logs[no hooks of logging either]",
        figure="0 hung",
        removals=(
            Removal(
                "hypotest/log.py",
                "    if renew is not None:\n        renew()\n",
                "",
            ),
        ),
    ),
    Fault(
        fault="uWSGI's master forks its workers behind the interpreter's back",
        happens="No thread of ours runs in the master; its events and the workers' arrive",
        test="tests/test_fork.py::test_a_master_that_forks_like_uwsgi",
        figure="4 workers and 4 children of theirs: each event once",
        removals=(
            Removal(
                "hypotest/runtime.py",
                "if _is_master(uwsgi):  # whose fork",
                "if False:  # whose fork",
            ),
        ),
    ),
    Fault(
        fault="A host in which no thread moves (uWSGI before 2.0.27 without enable-threads) would lead",
        happens="It leaves the lock to others, keeps events, and one line says what to do",
        test="tests/test_threadless.py::test_a_process_whose_threads_stand_still_never_leads",
        figure="40 events kept, 0 threads, 0 polls, 1 line",
        removals=(
            Removal(
                "hypotest/runtime.py",
                'if not getattr(uwsgi, "has_threads", True):',
                "if False:",
            ),
        ),
    ),
    Fault(
        fault="No further thread can be started: a limit, or an interpreter that goes down",
        happens="The campaign's own thread polls and sends",
        test="tests/test_election.py::test_a_leader_that_can_start_no_more_threads",
        figure="settings arrive and 20 events are delivered",
        removals=(
            Removal(
                "hypotest/leadership.py",
                "        for loop in self._threadless:\n            loop.step()\n",
                "        return\n",
            ),
        ),
    ),
    Fault(
        fault="The leader is recycled by its host",
        happens="It signs off, and another process follows at once instead of waiting for silence",
        test="tests/test_election.py::test_an_orderly_exit_signs_off",
        figure="nobody signed on after the exit",
        removals=(
            Removal(
                "hypotest/leader.py",
                "                self._post.page.words[LEADER_PID] = 0\n"
                "                self._post.page.words[HEARTBEAT] = 0\n",
                "                pass\n",
            ),
        ),
    ),
    Fault(
        fault="A leader loses its place while it waits for the server's answer",
        happens="It settles nothing any more; its successor sends the batch again, with the same ids",
        test="tests/test_backlog_accounts.py::test_a_leader_that_ends_settles_nothing_more",
        figure="0 events settled by the old leader, all by the new one",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "in batch.parts if not self._totals.closed() else ():",
                "in batch.parts:",
            ),
        ),
    ),
    Fault(
        fault="A leader steps down, and its process lives on for months",
        happens="It closes the files of others at once, whose locks would keep its successor from deleting them",
        test="tests/test_election.py::test_a_leader_that_steps_down_holds_no_segment",
        figure="0 files of others open; the dead writer's file is deleted by the successor",
        removals=(Removal("hypotest/backlog.py", "        self._sources.clear()\n", ""),),
    ),
    Fault(
        fault="The leader is killed between the counts of a finished file and its deletion",
        happens="The next leader knows that these counts are in, and deletes the file",
        test="tests/test_backlog_accounts.py::test_a_crash_between_fold_and_unlink",
        figure="counted once",
        removals=(
            Removal(
                "hypotest/retirement.py",
                "        for name in folded:\n",
                "        for name in ():\n",
            ),
        ),
    ),
    Fault(
        fault="A worker is killed while it makes a file",
        happens="The draft, which holds no event, is deleted after a minute",
        test="tests/test_backlog_accounts.py::test_old_drafts_are_swept",
        figure="the old draft is gone, the fresh one stays",
        removals=(
            Removal("hypotest/backlog.py", "self._sweep_draft(entry.path, entry.stat(follow_symlinks=False))", "pass"),
        ),
    ),
    Fault(
        fault="A worker that refused events is killed",
        happens="Its refusals stay in the accounts, once it wrote them down",
        test="tests/test_outage.py::test_refusals_are_seen_by_all_and_survive_the_process",
        figure="over 1,000 refusals of a killed process seen by the next one",
        removals=(
            Removal(
                "hypotest/spool.py",
                "            counting.segment.count(slot)\n",
                "            self.instance.unreported[slot] += 1\n",
            ),
        ),
    ),
    Fault(
        fault="The pid of a dead leader, or one of another container, is another process's",
        happens="The kernel is not asked about a process that may be another's: the heartbeat decides",
        test="tests/test_watch.py::test_a_process_of_another_namespace_is_not_watched",
        figure="not watched",
        removals=(
            Removal(
                "hypotest/watch.py",
                "if pid and space and space == self._space and self._pace:",
                "if pid and self._pace:",
            ),
        ),
    ),
    Fault(
        fault="A host that becomes a daemon closes our descriptors, and the numbers become another's",
        happens="Nothing of the host's is closed",
        test="tests/test_watch.py::test_a_descriptor_that_the_host_closed_is_not_closed_again",
        figure="0 descriptors of the host's closed",
        removals=(
            Removal(
                "hypotest/watch.py",
                "        if self._ours():\n            os.close(self._fd)\n",
                "        if self._fd >= 0:\n            os.close(self._fd)\n",
            ),
        ),
    ),
    Fault(
        fault="The same, of the leader's lock",
        happens="It steps down within a second, and neither unlocks nor closes what has the number now",
        test="tests/test_election.py::test_a_lock_whose_descriptor_the_host_closed_is_not_closed_again",
        figure="0 descriptors of the host's closed",
        removals=(
            Removal(
                "hypotest/lock.py",
                "is not None and platform.is_open_on(fd, self._file):\n",
                "is not None:\n",
            ),
        ),
    ),
    Fault(
        fault="The leader ends in order, and an idle child of it lives on that no fork hook has told of the fork",
        happens="The leader unlocks before it closes: another leads at once",
        test="tests/test_election.py::test_an_idle_child_keeps_no_lock_of_a_leader_that_ends_in_order[steps down]",
        figure="2 ways to end: another leads; before, nobody until the child's end",
        removals=(
            Removal(
                "hypotest/lock.py", "                    fcntl.flock(fd, fcntl.LOCK_UN)\n", "                    pass\n"
            ),
        ),
    ),
    Fault(
        fault="A leader steps down in the middle of a scan, on a slow disk",
        happens="Nothing is folded once it has: the totals are its successor's",
        test="tests/test_backlog_accounts.py::test_a_leader_that_ends_folds_nothing_more",
        figure="20 of 20 files counted once; before, up to 15 of 1,548 events twice",
        removals=(
            Removal(
                "hypotest/retirement.py",
                "            if not self._closed:\n                self._control.fold",
                "            if name:\n                self._control.fold",
            ),
        ),
    ),
    Fault(
        fault="Hundreds of threads of the leader's worker call at once while the disk is slow: each makes a file",
        happens="Files in which nothing waits make room: those of other workers are sent",
        test="tests/test_backlog.py::test_segments_of_its_own_process_keep_no_others_waiting",
        figure="150 files of its own, 20 of 20 events of another; before, 0",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "            if not source.segment.unsettled() and",
                "            if not source.own and not source.segment.unsettled() and",
            ),
        ),
    ),
    Fault(
        fault="The same, and the threads go away again",
        happens="The process gives all but a few of the files back",
        test="tests/test_spool_limits.py::test_the_segments_of_a_crowd_of_threads_are_given_back",
        figure="8 of 50 are kept",
        removals=(
            Removal("hypotest/spool.py", "while len(self._idle) > _MOST_IDLE:", "while len(self._idle) > 1 << 20:"),
        ),
    ),
    Fault(
        fault="A host that becomes a daemon closes the descriptors of our files, and the numbers become another's",
        happens="Nothing of the host's is closed (before Python 3.13 but for what Python keeps open for a mapping)",
        test="tests/test_segment.py::test_a_descriptor_that_the_host_has_closed_is_not_closed_again",
        figure="2 ways to close: 0 descriptors of the host's closed",
        removals=(
            Removal(
                "hypotest/segment.py",
                "        return self.file == (0, 0) or platform.is_open_on(fd, self.file)",
                "        return True",
            ),
        ),
    ),
    Fault(
        fault="The same, where segments are not mapped, and events go on",
        happens="Nothing is written to a file of the host's: the event is refused, and the next file takes the others",
        test="tests/test_segment.py::test_nothing_is_written_to_a_file_of_the_host",
        figure="0 bytes",
        removals=(Removal("hypotest/platform.py", "if not is_open_on(self._fd, self._file):", "if False:"),),
    ),
    Fault(
        fault="config() is called again and again in a host that has switched the collector of garbage off",
        happens="What the clients before had open is closed at once",
        test="tests/test_reconfigure.py::test_config_again_and_again_leaves_nothing_open",
        figure="20 calls: 3 more descriptors; before, 60",
        removals=(Removal("hypotest/spool.py", "        self._spool_bytes = int  # none", "        # none"),),
    ),
    Fault(
        fault="The host forks at the moment at which a process opens the lock file to lead",
        happens="The fork waits for it: no child has the descriptor, and with it the lock of a parent that dies",
        test="tests/test_fork.py::test_a_fork_while_the_campaign_opens_its_lock",
        figure="3,063 forks in a trial: 0 children with the lock; before, one of the first 5",
        removals=(Removal("hypotest/runtime.py", "        lock.opening.acquire(timeout=_FORK_PATIENCE)\n", ""),),
    ),
    Fault(
        fault="A signal handler forks while a call makes a file, and the child goes on with the call",
        happens="What the child goes on to write goes nowhere: the parent's file, and its draft, are not the child's",
        test="tests/test_fork.py::test_a_fork_while_a_segment_is_made",
        figure="every fifth bytecode of it: 0 events of the parent's lost; before, all in a file that was replaced",
        removals=(
            Removal(
                "hypotest/instance.py",
                "                os.dup2(nothing, segment.fd, inheritable=False)\n",
                "                pass\n",
            ),
        ),
    ),
    Fault(
        fault="config() in one thread while another is in the first call",
        happens="The client that was built with what was in force before is taken out of use at once",
        test="tests/test_reconfigure.py::test_config_while_another_thread_makes_the_first_call",
        figure="0 of 5 events under the old token; before, 189 of 622 in a trial",
        removals=(Removal("hypotest/runtime.py", "if client is candidate and given != _overrides:", "if False:"),),
    ),
    Fault(
        fault="config() while threads are in calls of the client before",
        happens="Refusals that stand in no file yet are the process's, not a client's: they are written down once",
        test="tests/test_reconfigure.py::test_refusals_are_counted_once_over_configurations",
        figure="3 of 3; before, up to 173 of 69",
        removals=(
            Removal(
                "hypotest/spool.py",
                "                    rows[slot] = 0\n",
                "                    pass\n",
            ),
        ),
    ),
    Fault(
        fault="One state directory under two names, one of them through a link, in the configurations of a process",
        happens="Both are one: a process that leads knows its own files by their path",
        test="tests/test_statedir.py::test_a_directory_has_one_name",
        figure="3 spellings",
        removals=(
            Removal("hypotest/statedir.py", "return os.path.join(os.path.realpath(parent), name)", "return root"),
        ),
    ),
    Fault(
        fault="config() in two threads at once, with calls in between",
        happens="Every client that is out of use is ended",
        test="tests/test_reconfigure.py::test_config_in_two_threads_at_once",
        figure="3 clients, 1 campaign; before, one led on by what was configured before",
        removals=(
            Removal(
                "hypotest/runtime.py",
                "            taken.close()  # another thread",
                "            pass  # another thread",
            ),
        ),
    ),
    Fault(
        fault="Two threads of a child make its first calls at once, and one is held up",
        happens="It turns from what is the parent's, and from that alone",
        test="tests/test_fork.py::test_two_threads_make_the_first_calls_of_a_child",
        figure="leads with its lock; before, the child's own was closed",
        removals=(Removal("hypotest/lock.py", "if pid != os.getpid() and _open.pop", "if _open.pop"),),
    ),
    Fault(
        fault="The host kills all greenlets, and ours with them, and lives on",
        happens="It steps down, and another process leads",
        test="tests/test_election.py::test_a_leader_whose_greenlets_the_host_kills",
        figure="another leads; before, none, for as long as that process lived",
        removals=(
            Removal(
                "hypotest/leader.py",
                "            if not self._abandoned:\n                self._end()",
                "            if self._stopped and not self._abandoned:\n                self._end()",
            ),
        ),
    ),
    Fault(
        fault="Events are refused in a thread of the host's while ours looks for deleted files",
        happens="Each refusal is counted",
        test="tests/test_spool_limits.py::test_refusals_while_our_thread_looks_for_deleted_files",
        figure="50,000 of 50,000; before, 154,559 of 200,000 in a trial",
        removals=(
            Removal(
                "hypotest/spool.py",
                "        lost, unreported = 0, self.instance.unreported\n",
                "        lost, unreported = 0, list(self.instance.unreported)\n"
                "        self.instance.unreported = unreported\n",
            ),
        ),
    ),
]
