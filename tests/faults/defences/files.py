"""Files that are cut, damaged, empty, foreign or of another version."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

FAULTS = [
    Fault(
        fault="A bit of a segment's header flips",
        happens="Its events are delivered, with their ids: what identifies it is there twice. A line in the log",
        test="tests/faults/test_corruption.py::test_a_damaged_header_costs_no_event",
        figure="8 places overwritten; every bit of the header flipped: no event lost, no id changed",
        removals=(Removal("hypotest/header.py", "for first, last in (plain, again):", "for first, last in (plain,):"),),
    ),
    Fault(
        fault="A segment's header is damaged in two places, and claims a seed that cannot be",
        happens="It goes to quarantine, its events are counted, and all other segments are sent",
        test="tests/faults/test_corruption.py::test_a_seed_that_can_be_none_keeps_no_other_from_being_sent",
        figure="3 of 3 events of the segment beside it",
        removals=(Removal("hypotest/header.py", " and seed <= _U32:", ":"),),
    ),
    Fault(
        fault="A segment is empty or unreadable, as after a power cut",
        happens="It goes to quarantine, and counts as the events that its position claims, or as one: `corrupt`",
        test="tests/faults/test_corruption.py::test_a_segment_that_cannot_be_read_is_counted",
        figure="704 lengths of a segment: each event delivered or counted",
        removals=(
            Removal(
                "hypotest/backlog.py",
                'take(path, lost)\n                self._totals.fold("", rows)\n',
                "take(path, lost)\n",
            ),
        ),
    ),
    Fault(
        fault="A segment becomes unreadable while its writer is at work",
        happens="It stays until its writer ends, which would else go on to write into quarantine",
        test="tests/faults/test_corruption.py::test_what_cannot_be_read_stays_with_its_writer",
        figure="set aside and counted once the writer is gone",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "            if not segment.lock(fd):\n",
                "            if segment.lock(fd) is None:\n",
            ),
        ),
    ),
    Fault(
        fault="An event is damaged",
        happens="It is counted as `corrupt`, the file goes to quarantine; the events behind it are delivered",
        test="tests/test_backlog.py::test_a_damaged_frame_hides_nothing",
        figure="every bit of 12 events flipped: the other 11 delivered, one counted",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "                offset = held.next_sound(offset, end)\n                continue\n",
                "                break\n",
            ),
        ),
    ),
    Fault(
        fault="The count of a segment's events is damaged",
        happens="The accounts end as if it were not: what cannot be read has to have room in the file",
        test="tests/faults/test_corruption.py::test_a_damaged_count_invents_no_event",
        figure="0 to 16 million events claimed: 3 counted",
        removals=(
            Removal(
                "hypotest/retirement.py",
                "            missing = min(missing, held.uncovered(written & OFFSET) // SMALLEST_FRAME)\n",
                "            missing = max(missing, 0)\n",
            ),
        ),
    ),
    Fault(
        fault="The position of a living writer's segment is damaged",
        happens="The leader reads no further than the file is, and delivers what others keep",
        test="tests/faults/test_corruption.py::test_a_damaged_position_of_a_living_writer",
        figure="6 impossible positions: the other events delivered, the accounts exact when the writer has ended",
        removals=(
            Removal(
                "hypotest/source.py",
                "min(end, self.segment.position() & OFFSET)\n",
                "self.segment.words[5] & OFFSET\n",
            ),
        ),
    ),
    Fault(
        fault="The note of what the server has acknowledged is damaged",
        happens="The events of that segment are sent again, with the same ids, and counted once",
        test="tests/faults/test_corruption.py::test_a_damaged_acknowledgement_sends_again",
        figure="every bit of it flipped, alone and with the next",
        removals=(
            Removal(
                "hypotest/header.py",
                "    return mark if with_check(mark) == word and position(mark, full) == mark else HEADER\n",
                "    return mark\n",
            ),
        ),
    ),
    Fault(
        fault="A counter of refusals or drops is damaged",
        happens="One flipped bit is mended by its checksum; a counter with more of them begins anew",
        test="tests/test_segment.py::test_every_bit_of_a_counter_is_mended",
        figure="64 bits of 303 counters: all mended",
        removals=(
            Removal("hypotest/header.py", "    if not word or counter(n) == word:\n", "    if word or not word:\n"),
        ),
    ),
    Fault(
        fault="A flipped bit says that a writer has finished its segment",
        happens="It has not: the mark is a word of eight letters. Else the file would be deleted under the writer",
        test="tests/faults/test_corruption.py::test_a_living_writers_segment_is_not_taken_for_finished",
        figure="64 bits: the next event is delivered",
        removals=(
            Removal(
                "hypotest/source.py",
                "return self.segment.words[FINISHED] == DONE",
                "return self.segment.words[FINISHED] != 0",
            ),
        ),
    ),
    Fault(
        fault="Our thread looks for deleted segments while an append is making one",
        happens="One that has no name yet is not where its path says, and is left alone: else its event counts twice",
        test="tests/test_spool.py::test_a_segment_without_its_name_yet_is_not_deleted",
        figure="0 lost, delivered and counted once",
        removals=(Removal("hypotest/spool.py", " and held.named", ""),),
    ),
    Fault(
        fault="A segment was renamed",
        happens="It takes its own name again; its events have the ids of its header",
        test="tests/faults/test_corruption.py::test_a_renamed_segment_takes_its_name",
        figure="delivered and counted once",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "        if not source.own and source.segment.stem != source.segment.name:\n",
                "        if not source.segment.stem:\n",
            ),
        ),
    ),
    Fault(
        fault="A segment was copied, by a backup for example",
        happens="The copy is set aside, and counted nowhere",
        test="tests/faults/test_corruption.py::test_a_copied_segment_is_set_aside",
        figure="2 copies: 3 events delivered and counted once",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "        if os.path.lexists(path):\n            self._quarantine.take(held.path)\n",
                "        if not path:\n            self._quarantine.take(held.path)\n",
            ),
        ),
    ),
    Fault(
        fault="Files of a newer version, after a return to this one",
        happens="They are not taken for ours: a segment is set aside and counted, older settings are used",
        test="tests/faults/test_corruption.py::test_a_newer_version_is_set_aside",
        figure="in quarantine, one event counted",
        removals=(Removal("hypotest/header.py", "_SEALED.pack(_MAGIC, self.seed", '_SEALED.pack(b"", self.seed'),),
    ),
    Fault(
        fault="A file is truncated while the leader reads it, where it is not mapped",
        happens="What is left is delivered. (Where it is mapped, the kernel answers SIGBUS: not promised)",
        test="tests/faults/test_corruption.py::test_a_file_cut_under_a_leader_that_reads_it",
        figure="7 lengths: no crash, no event twice",
        removals=(Removal("hypotest/platform.py", 'found = found.ljust(wanted, b"\\0")', "pass"),),
    ),
    Fault(
        fault="A directory, or another thing that is no file, in the place of a segment",
        happens="It goes to quarantine; leader and status go on",
        test="tests/faults/test_corruption.py::test_no_file_in_the_spool",
        figure="4 kinds",
        removals=(
            Removal(
                "hypotest/backlog.py",
                "            self._quarantine.take(path)  # no file, or not of our user: nothing that we accepted\n",
                "",
            ),
        ),
    ),
    Fault(
        fault="An experiment in the settings file is damaged",
        happens="It, or two, give control until the next poll: the leader reads all of the file and publishes it anew",
        test="tests/faults/test_corruption.py::test_no_damage_misleads_or_stops_a_reader[snapshot-flipped bits]",
        figure="1,592 flipped bits, 199 lengths: no wrong settings, all published anew",
        removals=(
            Removal(
                "hypotest/publisher.py",
                "open_snapshot(self._directory, generation).check()",
                "open_snapshot(self._directory, generation)",
            ),
        ),
    ),
    Fault(
        fault="The end of the settings file is zeros",
        happens="As any damage: zeros alone are no experiment",
        test="tests/faults/test_corruption.py::test_no_damage_misleads_or_stops_a_reader[snapshot-zeroed tails]",
        figure="199 tails of zeros: no wrong settings",
        removals=(
            Removal(
                "hypotest/snapshot.py",
                "zlib.crc32(records, zlib.crc32(PLACE.pack(number, offset, len(records)), seed))",
                "zlib.crc32(records)",
            ),
        ),
    ),
    Fault(
        fault="The word that names the settings in force is damaged",
        happens="The newest settings are used, not others that are still there; the leader mends it",
        test="tests/faults/test_corruption.py::test_a_generation_that_changes_by_itself",
        figure="each bit of it, and all extremes",
        removals=(
            Removal(
                "hypotest/control.py",
                "return generation if generation ^ _U64 == self.words[GENERATION_INVERTED] else None",
                "return generation",
            ),
        ),
    ),
    Fault(
        fault="The accounts in the control page are damaged",
        happens="The other copy, which is the same at rest, counts",
        test="tests/test_control.py::test_a_torn_copy_does_not_count",
        figure="each byte of both copies: no count lost",
        removals=(
            Removal(
                "hypotest/control.py",
                "for offset in _COPIES if a <= b else reversed(_COPIES):",
                "for offset in (_COPIES if a <= b else _COPIES[::-1])[:1]:",
            ),
        ),
    ),
    Fault(
        fault="Another word of the control page is damaged, such as the leader's pid",
        happens="None has a value that stops a process, or the next leader",
        test="tests/faults/test_corruption.py::test_no_damage_misleads_or_stops_a_reader[control page-extreme words]",
        figure="9,456 flipped bits, 2,774 extremes: somebody leads",
        removals=(
            Removal("hypotest/watch.py", "except (OSError, OverflowError) as error:", "except OSError as error:"),
        ),
    ),
    Fault(
        fault="Hundreds of damaged files at once",
        happens="One line in the log",
        test="tests/faults/test_corruption.py::test_many_damaged_files_are_one_line",
        figure="500 files, 1 line",
        removals=(Removal("hypotest/quarantine.py", '            "isolated",\n', '            f"isolated:{path}",\n'),),
    ),
    Fault(
        fault="The spool directory, or a file of it, is moved away while its writer is at work",
        happens="The writer gives it up, counts what no leader finds any more as `lost`, and goes on in a new one",
        test="tests/test_spool_limits.py::test_a_file_that_is_elsewhere[moved]",
        figure="3 ways: 1 event counted as lost, the next one delivered; before, all later ones vanished",
        removals=(Removal("hypotest/spool.py", "not held.in_place()", "os.fstat(held.fd).st_nlink == 0"),),
    ),
    Fault(
        fault="A file that its writer has finished is deleted before it was sent",
        happens="The leader, which has it open, counts what is lost",
        test="tests/test_spool_limits.py::test_a_finished_file_that_is_deleted",
        figure="1 event counted as lost",
        removals=(
            Removal(
                "hypotest/retirement.py",
                '            self._totals.fold("", rows)\n',
                "            del rows\n",
            ),
        ),
    ),
    Fault(
        fault="The file in which refusals are counted is deleted",
        happens="They are counted in another one",
        test="tests/test_spool_limits.py::test_refusals_after_the_tally_was_deleted",
        figure="11 of 11 refusals",
        removals=(
            Removal(
                "hypotest/spool.py",
                "                if writer in self._tally:\n",
                "                if writer is None:\n",
            ),
            Removal("hypotest/spool.py", "        if counting.limit:\n", "        if counting is not None:\n"),
        ),
    ),
    Fault(
        fault="A file is deleted while an event is being written to it",
        happens="That event counts as lost, too: accepted = delivered + dropped + pending",
        test="tests/test_spool_limits.py::test_an_event_that_is_kept_while_its_file_is_given_up",
        figure="2 of 2 events",
        removals=(
            Removal(
                "hypotest/spool.py",
                "                self._deleted.append(held)\n",
                "                lost += held.unsettled()\n",
            ),
        ),
    ),
    Fault(
        fault="Another application of this user, with a shorter `max_event_age`, finds our events while we are away",
        happens="They are kept for as long as our last leader would",
        test="tests/test_outage.py::test_events_of_another_application_keep_for_as_long_as_it_wants",
        figure="kept; before, dropped by count after the other one's time",
        removals=(
            Removal(
                "hypotest/neighbours.py",
                'max(post.config.max_event_age, leaders_own(page, "max_event_age") or 0.0)',
                "post.config.max_event_age",
            ),
        ),
    ),
]
