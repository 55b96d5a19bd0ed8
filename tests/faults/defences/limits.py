"""Full disks, caps, descriptors, memory, threads, deleted directories."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_HERE = "tests/faults/test_limits.py::"
_REFUSE_ON_ERROR = Removal(
    "hypotest/spool.py",
    'raise self._refusal("disk", str(error)) from error\n        self._write_down(fresh.segment)',
    "raise\n        self._write_down(fresh.segment)",
)

FAULTS: list[Fault] = [
    Fault(
        fault="The spool reaches its cap",
        happens="New events are refused and counted, spool_full; what was kept before is delivered",
        test="tests/test_outage.py::test_the_cap_holds_in_an_outage",
        figure="4 processes at full speed, cap 8 MiB: at most 4 segments over it",
        removals=(
            Removal(
                "hypotest/spool.py",
                "if held + more > self._max_bytes:\n            raise",
                "if False:\n            raise",
            ),
        ),
    ),
    Fault(
        fault="No inode left",
        happens="Answers stay; once the open files are full, events are refused and counted; later it goes on",
        test=_HERE + "test_no_inode_left",
        figure="Accounts exact",
        removals=(_REFUSE_ON_ERROR,),
    ),
    Fault(
        fault="No descriptor left, in the process that leads",
        happens="Answers stay, events are refused and counted; with descriptors it keeps and delivers again",
        test=_HERE + "test_no_descriptor_left",
        figure="64 descriptors, all in use; accounts exact",
        removals=(_REFUSE_ON_ERROR,),
    ),
    Fault(
        fault="A limit of the size of files (RLIMIT_FSIZE)",
        happens="Events are refused and counted, new settings wait and the log says why; both go on without it",
        test=_HERE + "test_a_file_size_limit",
        figure="100 bytes; accounts exact",
        removals=(Removal("hypotest/poller.py", "except OSError as error:", "except ZeroDivisionError as error:"),),
    ),
    Fault(
        fault="A limit of memory (RLIMIT_AS): no room for a mapping",
        happens="Answers stay, events are refused and counted; it goes on when there is room",
        test=_HERE + "test_no_room_for_a_mapping",
        figure="32 KiB left; accounts exact",
        removals=(_REFUSE_ON_ERROR,),
    ),
    Fault(
        fault="10,000 files of processes that ended",
        happens="All delivered, each once, with a bounded number of descriptors",
        test=_HERE + "test_orphans_by_the_thousand",
        figure="8 s, 140 descriptors at most",
        removals=(Removal("hypotest/backlog.py", "_MAX_OPEN = 128", "_MAX_OPEN = 1 << 20"),),
    ),
    Fault(
        fault="More workers live than the leader opens files, and others come and go",
        happens="The files of those that have ended are deleted, wherever they stand in the directory",
        test="tests/test_backlog_accounts.py"
        "::test_the_files_of_ended_writers_go_though_more_live_than_the_leader_opens",
        figure="180 live, three times 60 ended: 0 files left; before, 14 to 17 of the first 60",
        removals=(Removal("hypotest/backlog.py", " and self._may_go(path, source):", ":"),),
    ),
    Fault(
        fault="Near the cap, a call and our own thread look at the same moment whether a file fits",
        happens="What one of them is opening counts for the other",
        test="tests/test_spool_limits.py::test_two_threads_at_the_cap_do_not_both_find_room",
        figure="0 over the cap; before, up to 44 % of a cap of 1 MiB",
        removals=(Removal("hypotest/spool.py", "more = sum(self._opening)\n", "more = self._opening[-1]\n"),),
    ),
    Fault(
        fault="A disk of 64 MB that several processes fill together",
        happens="No SIGBUS: events are refused and counted, and the disk is free after delivery",
        test=_HERE + "test_a_small_disk_for_several_writers",
        figure="4 processes; accounts exact",
        removals=(
            Removal("hypotest/spool.py", "if free - more < reserve:", "if False:"),
            Removal("hypotest/platform.py", "os.posix_fallocate(fd, 0, size)", "os.ftruncate(fd, size)"),
        ),
    ),
    Fault(
        fault="The spool directory is deleted while processes work",
        happens="What was in it is lost and counted; it is made again within a second, and events arrive",
        test=_HERE + "test_what_is_deleted_under_us[spool]",
        figure="2 processes",
        removals=(Removal("hypotest/client.py", " or not state.whole()", ""),),
    ),
    Fault(
        fault="The whole state directory is deleted while processes work",
        happens="Answers stay as they are; it is made again within a second, and events and new settings arrive",
        test=_HERE + "test_what_is_deleted_under_us[../..]",
        figure="2 processes, 0 answers changed",
        removals=(Removal("hypotest/client.py", "settings.decode, held)", "settings.decode)"),),
    ),
    Fault(
        fault="The control page is deleted while processes work",
        happens="It is made again, with the newest settings on disk; all processes turn to it within a second",
        test=_HERE + "test_what_is_deleted_under_us[control]",
        figure="2 processes, 0 answers changed",
        removals=(Removal("hypotest/client.py", "self.page.replaced() or ", ""),),
    ),
    Fault(
        fault="The file system turns read-only while processes work",
        happens="Answers stay; once the open files are full, events are refused and counted; later it goes on",
        test=_HERE + "test_a_file_system_that_turns_read_only",
        figure="Accounts exact",
        removals=(_REFUSE_ON_ERROR,),
    ),
    Fault(
        fault="No thread can be started (RLIMIT_NPROC)",
        happens="Events are kept, one line says so, another process delivers them",
        test=_HERE + "test_no_thread_can_be_started",
        figure="20 of 20 events, 1 line",
        removals=(
            Removal("hypotest/client.py", "except RuntimeError as error:", "except ZeroDivisionError as error:"),
        ),
    ),
    Fault(
        fault="The disk is full for the log",
        happens="Nobody is disturbed: no exception, nothing on stderr",
        test=_HERE + "test_a_log_that_cannot_be_written",
        figure="Stdout on a full device",
        removals=(
            Removal(
                "hypotest/handler.py",
                "class _Handler(logging.StreamHandler):",
                "class _Handler(logging.StreamHandler):\n    pass\n\n\nclass _Unused(logging.StreamHandler):",
            ),
        ),
    ),
    Fault(
        fault="The leader's process has no descriptors left",
        happens="It closes half of the files that it sends from, and sends on",
        test="tests/test_backlog.py::test_a_leader_without_descriptors_gives_some_back",
        figure="12 files, room for 8: 4 stay open, all are sent",
        removals=(
            Removal("hypotest/backlog.py", "                self._give_back_descriptors()\n", "                pass\n"),
        ),
    ),
    Fault(
        fault="A host that may have few descriptors, and a backlog of many files",
        happens="The leader takes a share of them, and leaves the rest to the application",
        test="tests/test_backlog.py::test_a_leader_has_a_share_of_the_descriptors",
        figure="12 files at a limit of 100",
        removals=(Removal("hypotest/backlog.py", "limit // _OPEN_SHARE", "limit"),),
    ),
    Fault(
        fault="A file of the spool cannot be deleted: its directory was made read-only, or it is busy",
        happens="All others are sent, it is counted once, and one line says so",
        test="tests/test_backlog.py::test_a_file_that_cannot_be_deleted",
        figure="24 of 24 events; before, delivery stood still",
        removals=(
            Removal(
                "hypotest/retirement.py",
                "                _cannot_delete(path, error)\n                return False\n            sources",
                "                raise\n            sources",
            ),
        ),
    ),
    Fault(
        fault="The same, of more files than a leader opens",
        happens="All others are sent, and each is counted once when they can be deleted",
        test="tests/test_backlog.py::test_many_files_that_cannot_be_deleted",
        figure="300 of 300 events",
        removals=(Removal("hypotest/backlog.py", " or not self._may_retire", ""),),
    ),
    Fault(
        fault="A umask that takes away what we need ourselves",
        happens="Directories are 0700 all the same",
        test="tests/test_statedir.py::test_any_umask[127]",
        figure="umask 0, 0177 and 0777",
        removals=(
            Removal("hypotest/statedir.py", "        os.chmod(path, 0o700)  # the umask", "        # the umask"),
        ),
    ),
    Fault(
        fault="Hundreds of files wait that nobody delivers, more than a leader has open",
        happens="All grow old at the same time, and are dropped by count once they are over `max_event_age`",
        test="tests/test_outage.py::test_more_files_than_a_leader_has_open_age_at_the_same_time",
        figure="300 files: dropped in 3 visits; before, 128 in each max_event_age",
        removals=(Removal("hypotest/backlog.py", "                    self._begin_to_age(entry.path)\n", ""),),
    ),
    Fault(
        fault="The state directory that is named cannot be used for a while, such as by a late mount",
        happens="The next one is used until the process ends; what is left there is reported each hour, and ages",
        test="tests/test_outage.py::test_events_in_another_state_directory_are_reported_and_age",
        figure="1 line, which tells the command that delivers them",
        removals=(
            Removal(
                "hypotest/neighbours.py", "in (*post.state.others(), *_elsewhere(post)):", "in post.state.others():"
            ),
        ),
    ),
    Fault(
        fault="More processes are busy at any moment than the leader opens files",
        happens="Each has its turn, about equally often; before, some were left out until their files were full",
        test="tests/test_backlog_accounts.py::test_busy_writers_have_their_turns",
        figure="300 writers, 15 rounds of 128: 5 to 8 turns each; before, 172 had none",
        removals=(
            Removal("hypotest/backlog.py", "            if source.served:\n", "            if False:\n"),
            Removal(
                "hypotest/backlog.py", "key=lambda entry: self.waiting.get(entry.path, self._scans)", "key=os.fspath"
            ),
            Removal("hypotest/backlog.py", "path not in self.waiting and self._is_idle(path)", "False"),
        ),
    ),
    Fault(
        fault="A full disk whose file system gives written blocks a new place (btrfs, ZFS)",
        happens="The control page is not written through its mapping, as events are not: no SIGBUS, refusals by count",
        test="tests/test_control.py::test_a_full_disk_where_a_mapping_is_not_written",
        figure="btrfs of 400 MB, filled: 2 of 2 processes end well; before, both died in kpi_event",
        removals=(
            Removal("hypotest/control.py", "readable_only=not self.mapped", "readable_only=False"),
            Removal(
                "hypotest/control.py",
                "        with interrupts.suppress(OSError):\n            self._stores.put(8",
                "        if True:\n            self._stores.put(8",
            ),
        ),
    ),
    Fault(
        fault="A disk without mappings, such as btrfs, is full, and what is settled cannot be written down",
        happens="The leader knows it all the same: it sends what is next, and its files go, which makes room",
        test="tests/test_backlog.py::test_what_is_settled_on_a_full_disk_is_not_sent_again",
        figure="204 events, each sent once; before, the same batch for ever",
        removals=(
            Removal(
                "hypotest/segment.py",
                "            self._unwritten = mark\n",
                "            raise\n",
            ),
        ),
    ),
    Fault(
        fault="On such a disk, a file of a writer is full to its last byte",
        happens="The leader does not map it either: a store into it would be SIGBUS on a full disk",
        test="tests/test_backlog.py::test_a_full_file_is_not_mapped_either_where_none_is",
        figure="1 file in about 300; before, it was mapped",
        removals=(Removal("hypotest/backlog.py", "mapped=self._control.mapped", "mapped=True"),),
    ),
    Fault(
        fault="A leader finds a whole spool of a former token over age",
        happens="It drops some of it at each visit, and its heart goes on beating",
        test="tests/test_backlog_accounts.py::test_expire_takes_no_longer_than_it_may",
        figure="1 file a visit at 0 s; before, 200,000 events held up the heartbeat for 3 s",
        removals=(
            Removal("hypotest/backlog.py", "            if time.monotonic() > deadline:\n", "            if False:\n"),
        ),
    ),
]
