"""A kill or an error at any system call or bytecode of an operation."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_TESTS = "tests/faults/test_sweep.py"
_KILLED = f"{_TESTS}::test_killed_at_each_system_call"
_ERROR = f"{_TESTS}::test_an_error_at_each_system_call"
_HALF = f"{_TESTS}::test_half_of_each_transfer"

FAULTS: list[Fault] = [
    Fault(
        "a process is killed inside a call that keeps an event",
        "the event is kept whole, or it never was; the ones before it are delivered",
        f"{_TESTS}::test_killed_at_each_bytecode_of_an_append",
        "86 kills, at every bytecode",
        (
            Removal(
                "hypotest/spool.py",
                "            open_segment.map[offset:end] = frame\n"
                "            words[POSITION] = position + ONE + (length + 15 & -8)  # publish last\n",
                "            words[POSITION] = position + ONE + (length + 15 & -8)\n"
                "            open_segment.map[offset:end] = frame\n",
            ),
        ),
    ),
    Fault(
        "a process is killed while it opens a segment",
        "a draft without a name is left, which no leader reads; it is swept after a minute",
        f"{_KILLED}[append]",
        "37 kills",
        (
            Removal(
                "hypotest/backlog.py",
                "        if time.time() - found.st_mtime > _DRAFT_AGE:\n            os.unlink(path)",
                "        pass",
            ),
        ),
    ),
    Fault(
        "a process is killed in the first call on a host",
        "the next process makes what is missing; a half-made control page is swept after a minute",
        f"{_KILLED}[first call]",
        "78 kills",
        (Removal("hypotest/leadership.py", "            control.sweep_drafts(self._post.state.path)\n", ""),),
    ),
    Fault(
        "a process is killed while it turns to the next segment",
        "both segments lose their lock with it: they are delivered and deleted",
        f"{_KILLED}[rotate]",
        "21 kills",
        (
            Removal(
                "hypotest/source.py",
                "(self.is_finished() or (not self.own and self.segment.lock()))",
                "self.is_finished()",
            ),
        ),
    ),
    Fault(
        "the leader is killed while it collects a batch",
        "nothing was settled: the next leader collects the same events",
        f"{_KILLED}[claim]",
        "47 kills",
        (
            Removal(
                "hypotest/backlog.py",
                "            batch.parts.append(part)\n",
                "            batch.parts.append(part)\n            held.acknowledge(part.mark(len(part.offsets)))\n",
            ),
        ),
    ),
    Fault(
        "the leader is killed between the server's answer and its own note of it",
        "the next leader sends what was not noted again, under the same ids: the server counts each once",
        f"{_KILLED}[acknowledge]",
        "35 kills",
        (Removal("hypotest/backlog.py", "-{held.number:x}-%x", "-{time.monotonic_ns():x}-%x"),),
    ),
    Fault(
        "the leader is killed after it counted a finished segment and before it deleted it",
        "the next leader sees by the name beside the counts that they are in, and deletes the file",
        f"{_KILLED}[acknowledge]",
        "35 kills",
        (
            Removal("hypotest/backlog.py", "may_retire = self._retirement.resume(self._sources)", "may_retire = True"),
            Removal("hypotest/control.py", "        if segment in last:\n            return\n", ""),
        ),
    ),
    Fault(
        "the leader is killed while it publishes settings",
        "the old ones or the new ones are in force, whole; the generation never goes back",
        f"{_KILLED}[publish]",
        "28 kills",
        (
            Removal(
                "hypotest/publisher.py",
                "        self._write(snapshot_path",
                "        self._page.set_generation(generation)\n        self._write(snapshot_path",
            ),
        ),
    ),
    Fault(
        "a process is killed while it takes over from a dead leader",
        "the kernel takes its lock back: the next one leads at once",
        f"{_KILLED}[take over]",
        "145 kills",
        (
            Removal(
                "hypotest/lock.py",
                "platform.open_own(self.path, os.O_RDWR | os.O_CREAT)",
                "platform.open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)",
            ),
        ),
    ),
    Fault(
        "a process that is to lead cannot load what a leader needs: no descriptors",
        "it gives the lock back, says so, and tries again a second later; so may others",
        f"{_TESTS}::test_out_of_descriptors[take over, cold]",
        "0 to 7 descriptors left",
        (
            Removal(
                "hypotest/leader.py",
                '            self._lock.release()\n            log.limited(\n                log.ERROR, "election"',
                '            log.limited(\n                log.ERROR, "election"',
            ),
        ),
    ),
    Fault(
        "loading what a leader needs fails half-way: a disk error, no descriptors for a while",
        "the next attempt of the same process succeeds; until then others lead",
        "tests/test_transport.py::test_an_import_that_failed_half_way",
        "941 errors at 806 calls of such a takeover",
        (
            Removal(
                "hypotest/transport.py", "class _BearerToken(AuthBase)", "class _BearerToken(requests.auth.AuthBase)"
            ),
        ),
    ),
    Fault(
        "opening a segment fails: no space, no descriptor, no memory, an I/O error",
        "the event is refused and counted as `disk`; the next one is kept if the trouble is over",
        f"{_ERROR}[append]",
        "50 errors",
        (
            Removal(
                "hypotest/spool.py",
                '_RETRY_AFTER, "disk")\n            raise self._refusal("disk", str(error)) from error',
                '_RETRY_AFTER, "disk")\n            raise EventRefused("disk", str(error)) from error',
            ),
        ),
    ),
    Fault(
        "marking a full segment as finished fails, where segments are not mapped",
        "the event that is in the next one counts as accepted, once; the full one is retired as an orphan",
        f"{_ERROR}[rotate, not mapped]",
        "53 errors",
        (
            Removal(
                "hypotest/spool.py",
                "        with interrupts.suppress(OSError):  # not mapped, on a full disk: without a lock it counts as"
                " finished, too\n            if done",
                "        if True:\n            if done",
            ),
        ),
    ),
    Fault(
        "a settled segment cannot be deleted: an I/O error",
        "its counts stand once; the leader deletes it in its next round",
        f"{_ERROR}[acknowledge]",
        "54 errors",
        (
            Removal("hypotest/backlog.py", "may_retire = self._retirement.resume(self._sources)", "may_retire = True"),
            Removal("hypotest/control.py", "        if segment in last:\n            return\n", ""),
        ),
    ),
    Fault(
        "the disk fails while settings are written",
        "the settings in force stay, and the next poll publishes the new ones",
        f"{_ERROR}[publish]",
        "43 errors",
        (Removal("hypotest/publisher.py", 'draft = f"{self._directory}/.settings-draft"', "draft = path"),),
    ),
    Fault(
        "the kernel writes only a part of a settings file",
        "the rest is written; only a whole file gets its name",
        f"{_HALF}[publish]",
        "every transfer",
        (
            Removal(
                "hypotest/publisher.py",
                "                while left:\n                    left = left[os.write(fd, left) :]\n",
                "                os.write(fd, left)\n",
            ),
        ),
    ),
    Fault(
        "the kernel reads only a part of a segment's header",
        "the leader comes back to the segment in its next round, and does not take it for a damaged one",
        f"{_HALF}[claim]",
        "every transfer",
        (Removal("hypotest/segment.py", "if len(head) < min(os.fstat(fd).st_size, HEADER):", "if False:"),),
    ),
    Fault(
        "a read of the position gives nothing, where segments are not mapped",
        "an error, and the event is refused: a zero would be taken for the position, and the header overwritten",
        f"{_ERROR}[append, not mapped]",
        "52 errors",
        (
            Removal(
                "hypotest/platform.py", "if len(found) != size and os.fstat(fd).st_size >= offset + size:", "if False:"
            ),
        ),
    ),
    Fault(
        "the kernel writes only a part of an event, where segments are not mapped",
        "the rest is written before the event counts",
        f"{_HALF}[append, not mapped]",
        "11 transfers",
        (Removal("hypotest/platform.py", "if written != len(data):", "if False:"),),
    ),
    Fault(
        "the kernel reads only a part of the control page's head",
        "an error: a page that is taken for damaged would be replaced, and the accounts lost",
        f"{_HALF}[start]",
        "every transfer",
        (Removal("hypotest/control.py", "if len(magic) < min(found.st_size, 8):", "if False:"),),
    ),
    Fault(
        "a process ends that is to flush, after a `config()`",
        "what it accepted under the configuration before is waited for, too",
        "tests/test_kill.py::test_flush_events_waits_for_what_was_accepted_under_another_configuration",
        "3 orders, leading or not: all delivered at its end; before, none",
        (
            Removal(
                "hypotest/client.py",
                "self._spool_bytes, self.instance, page.mapped)",
                "self._spool_bytes, None, page.mapped)",
            ),
        ),
    ),
    Fault(
        "a host closes all descriptors, as one does that becomes a daemon, and goes on making events",
        "with them go the locks; the leader keeps a file that looks like an orphan's while its writer may live",
        "tests/test_kill.py::test_a_host_that_closes_all_descriptors_loses_nothing[mapped]",
        "17 of 17 delivered, counted once; before, up to 5 of 18 lost",
        (Removal("hypotest/retirement.py", "crowded or not source.may_be_written(self._patience)", "True"),),
    ),
    Fault(
        "the same, for the accounts",
        "the writer finishes the file within two seconds and begins another; it is not taken for a deleted one",
        "tests/test_kill.py::test_a_host_that_closes_all_descriptors_loses_nothing[mapped]",
        "17 accepted, 17 delivered; before, 27 accepted, 5 lost",
        (Removal("hypotest/spool.py", "                if held.has_name():", "                if False:"),),
    ),
    Fault(
        "the same where files are not mapped, as on btrfs, zfs and NFS",
        "the call that finds its file closed finishes it, and keeps its event in another one",
        "tests/test_kill.py::test_a_host_that_closes_all_descriptors_loses_nothing[not mapped]",
        "17 accepted, 17 delivered; before, all later events were refused until the process ended",
        (
            Removal(
                "hypotest/spool.py", "if open_segment is None or open_segment.segment.in_place():", "if open_segment:"
            ),
        ),
    ),
    Fault(
        "the same, in the leader, while nothing happens",
        "it notices within a second that it has no lock any more, whatever else it cannot do there, and leads again",
        "tests/test_kill.py::test_a_leader_whose_host_closes_all_descriptors[not mapped]",
        "leads with its lock; before, it led on without one, beside the next leader",
        (
            Removal(
                "hypotest/leader.py",
                "            except Exception as error:  # noqa: BLE001 - the lock is looked at all the same\n",
                "            except ZeroDivisionError as error:\n",
            ),
            Removal(
                "hypotest/spool.py",
                "    with interrupts.suppress(OSError):  # not mapped, and closed by the host\n",
                "    with interrupts.suppress(ZeroDivisionError):\n",
            ),
        ),
    ),
]
