"""Power cuts: what was not synced is lost, in any order."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_TEST = "tests/faults/test_power.py::test_"
_BACKLOG = "hypotest/backlog.py"
_RETIREMENT = "hypotest/retirement.py"
_SOURCE = "hypotest/source.py"
_DURABILITY = "hypotest/durability.py"

FAULTS: list[Fault] = [
    Fault(
        "The power fails; some of what was written in the last second reached the disk, some did not",
        "all that was accepted before the last sync, at most a second ago, is delivered, once",
        _TEST + "what_was_synced_is_delivered",
        "52 cuts at one moment: 20 of 20 synced events each time, none mixed, none twice",
        (Removal(_DURABILITY, "                self._sync_data(held.fd)\n", "                pass\n"),),
    ),
    Fault(
        "The power fails while the server is away and the sender waits, with files that are younger than its last look",
        "they are synced like all others, though nobody has opened them",
        _TEST + "a_file_made_while_the_server_is_away_is_synced",
        "3 of 3 events there; without, none for up to an hour of Retry-After",
        (Removal(_DURABILITY, "entries if entry.name.endswith(SUFFIX))", "entries if self._held(entry.path))"),),
    ),
    Fault(
        "The power fails and the file system forgets a rename: the data of a file is there, its name is not",
        "the directory is synced with the first events of each file: the name is there",
        _TEST + "the_names_of_files_are_synced",
        "3 of 3 events there; without, the draft is swept with all that is in it",
        (Removal(_DURABILITY, "if not synced.keys() <= self._synced.keys():", "if not synced:"),),
    ),
    Fault(
        "The power fails; pages of one file reached the disk in any order, frames without the position before them",
        "what is whole is delivered, found without the position",
        _TEST + "pages_that_reached_the_disk_in_any_order",
        "52 cuts of 40 events: each event that is whole on the disk is delivered, no other",
        (Removal(_SOURCE, "return end if self.orphan else min(", "return min("),),
    ),
    Fault(
        "The power fails; the position reached the disk, some of the events under it did not",
        "they are dropped by count, `corrupt`; nothing stays pending for ever",
        _TEST + "pages_lost_under_the_position_are_counted",
        "25 cuts: corrupt = counted - delivered, 0 pending, spool empty",
        (Removal(_RETIREMENT, "        missing = frames(written) - frames(settled)\n", "        missing = 0\n"),),
    ),
    Fault(
        "The power fails after the server's answer; that it came is lost",
        "the events are sent again with the ids they had, whatever else is lost: the server counts them once",
        _TEST + "an_acknowledgement_that_is_lost_resends_the_same_ids",
        "52 cuts, 40 events: 0 under a second id",
        (Removal(_BACKLOG, "tuple(self.offsets)", "tuple(range(self.settled, self.settled + len(self.offsets)))"),),
    ),
    Fault(
        "The power fails while the totals are written, half of a sector old and half new",
        "of two copies one is whole: the totals are those of before or after",
        _TEST + "totals_torn_as_they_are_written",
        "30 moments, 15 cuts each: 0 mixtures",
        (Removal("hypotest/control.py", "stored != zlib.crc32(raw)", "stored < 0"),),
    ),
    Fault(
        "The power fails; totals of the last second are lost with it",
        "the control page is synced within a second of a change: older counts are safe",
        _TEST + "the_totals_are_synced",
        "52 cuts: totals as of the last sync or newer",
        (Removal(_DURABILITY, "if totals != self._synced_totals:", "if totals is None:"),),
    ),
    Fault(
        "The power fails and brings back files that were delivered, counted and deleted",
        "the totals name the last 9, which are deleted again; older deletions were synced",
        _TEST + "a_file_whose_deletion_is_lost_is_not_counted_again",
        "30 files deleted, up to 9 back: 0 counted twice",
        (Removal(_DURABILITY, "if self._folded == NAMES:", "if self._folded < 0:"),),
    ),
    Fault(
        "A leader is killed, its successor goes on, then the power fails: deletions of both are undone",
        "each leader syncs the directory before the first file it retires",
        _TEST + "a_deletion_that_its_predecessor_left_unsynced",
        "30 leaders, a file each: 0 counted twice",
        (Removal(_DURABILITY, "self._folded = NAMES ", "self._folded = 0 "),),
    ),
    Fault(
        "The power fails before the first page of a new file is on the disk",
        "the file goes to quarantine, and keeps no other from being delivered",
        _TEST + "a_file_without_its_header",
        "3 of 3 events of the other file",
        (
            Removal(
                _BACKLOG,
                "        except CorruptFile:\n            self._isolate(path)\n",
                "        except MemoryError:\n",
            ),
        ),
    ),
    Fault(
        "One file cannot be synced: an I/O error of the disk",
        "all others are",
        _TEST + "a_file_that_cannot_be_synced_keeps_no_other_from_it",
        "2 of 2 other files",
        (
            Removal(
                _DURABILITY,
                "with contextlib.suppress(OSError, ValueError):  # one that",
                "with contextlib.suppress():  #",
            ),
        ),
    ),
    Fault(
        "The control page is lost, and with it the time that leaders have lived, by which events grow old",
        "their age is counted from now on: they are dropped after `max_event_age`, not after years",
        _TEST + "the_leaders_clock_lost_with_its_page",
        "dropped after one max_event_age",
        (
            Removal(
                _BACKLOG,
                "if not 0 < source.segment.words[FIRST_SEEN] <= lived:",
                "if not source.segment.words[FIRST_SEEN]:",
            ),
        ),
    ),
]
