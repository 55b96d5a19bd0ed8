"""The server is away, hangs, lies, or asks for patience."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_LONG = "tests/faults/test_long_outage.py::"
_TRANSPORT = "tests/test_transport.py::"
_TRUST = "tests/test_transport_trust.py::"
_TURN = Removal(
    "hypotest/control.py",
    "            return False\n        self.words[_SAID]",
    "            pass\n        self.words[_SAID]",
)

FAULTS: list[Fault] = [
    Fault(
        fault="The server is away for a day",
        happens="The spool fills to its cap, new events are refused by count; the log tells so each hour; all that"
        " was kept arrives once, in batches of 1,000 over one connection",
        test=_LONG + "test_a_day_without_the_server",
        figure="4 workers: 1,035 lines of the log, idle 0; 5,216 events kept, 6,304 refused, sent in 6 batches",
        removals=(_TURN,),
    ),
    Fault(
        fault="Sends fail for hours in a host that has switched the collector of garbage off",
        happens="Each failed batch is given back at once, and the locks on its files: urllib3's errors hold themselves",
        test=_TRANSPORT + "test_a_failure_keeps_nothing_of_its_callers",
        figure="5 ways to fail: 0 batches held; before, half a MiB for each",
        removals=(Removal("hypotest/transport.py", "            _clear_frames(chain)\n", ""),),
    ),
    Fault(
        fault="A request of ours fails in the middle of a handler of the host's, as a flush at exit may",
        happens="The line tells our failure, not what the host was at; the host's own error keeps its frames",
        test=_TRUST + "test_an_error_of_the_hosts_is_neither_told_nor_touched",
        figure="both calls: 1 error of the host's, untouched",
        removals=(Removal("hypotest/transport.py", "for known in (outer, *chain)", "for known in chain"),),
    ),
    Fault(
        fault="All workers of a host are refused at once",
        happens="One of them says so, not each",
        test=_LONG + "test_workers_at_the_cap_speak_with_one_voice",
        figure="8 workers and a leader: 3 lines",
        removals=(_TURN,),
    ),
    Fault(
        fault="A line too thin to carry a whole batch in time",
        happens="Each batch that is not acknowledged halves the next, down to one event; then they grow again",
        test="tests/test_sender.py::test_a_line_too_thin_for_a_whole_batch",
        figure="40,000 bytes/s: 1,500 of 1,500 events delivered; before, none, for ever",
        removals=(Removal("hypotest/sender.py", "min(self._halvings + 1, _MOST_HALVINGS)", "0"),),
    ),
    Fault(
        fault="An event makes the server fail, or a firewall before it refuse the request",
        happens="It waits, with what its process made after it; all others go out, in batches as small as need be",
        test="tests/test_sender.py::test_an_event_that_makes_the_server_fail",
        figure="780 of 800 delivered; before, none, until 1,000 waited",
        removals=(Removal("hypotest/sender.py", "_MOST_HALVINGS = 9", "_MOST_HALVINGS = 0"),),
    ),
    Fault(
        fault="The server comes back after an outage, or had asked for peace by 429",
        happens="It gets whole batches: no more requests than there need be",
        test="tests/test_sender.py::test_after_an_outage_a_batch_is_whole",
        figure="3 kinds of outage: 1 request for 1,000 events",
        removals=(Removal("hypotest/sender.py", "if not isinstance(error, ServerAway):", "if True:"),),
    ),
    Fault(
        fault="The server serves settings and takes no events",
        happens="The sender keeps to its pauses; only the first poll that is answered after an outage wakes it",
        test="tests/test_sender.py::test_a_poll_that_is_answered_ends_no_wait_of_the_sender_alone",
        figure="1 of 4 polls wakes it; before, each did",
        removals=(Removal("hypotest/leadership.py", "if failed and self._send_failures", "if self._send_failures"),),
    ),
    Fault(
        fault="An answer goes on for ever behind its gzip",
        happens="It is refused at once, and the settings stay",
        test="tests/test_transport.py::test_garbage_for_gzip",
        figure="before, 100 MiB and 13 s of a core in a trial",
        removals=(
            Removal(
                "hypotest/transport.py",
                "if unpacker is not None and unpacker.unused_data:",
                "if False:",
            ),
        ),
    ),
    Fault(
        fault="Events come all the time, some during each request",
        happens="A round sends what was there when it began, in full batches and one more; the rest an interval later",
        test="tests/test_sender.py::test_a_round_takes_what_was_there_and_not_what_comes_meanwhile",
        figure="1,000 events/s: 16 requests in 13 s; before, 36 to 58, and twice the sender's time",
        removals=(Removal("hypotest/leadership.py", "if not self._sender.full:", "if False:"),),
    ),
    Fault(
        fault="A server returns to hosts that all began in its outage",
        happens="Polls and sends are spread: full jitter",
        test=_LONG + "test_hosts_that_return_from_an_outage_do_not_come_together",
        figure="100 hosts: under 30 in any second",
        removals=(
            Removal("hypotest/leadership.py", "return at_least + _between(0, spread)", "return at_least + spread"),
        ),
    ),
    Fault(
        fault="503 or 429 with Retry-After, to all hosts at once",
        happens="Left alone for so long, by flush() too; then they come spread over as long again, a minute at most",
        test=_LONG + "test_hosts_that_are_told_to_come_back_do_not_come_together",
        figure="100 hosts told 60 s: none before, under 30 in any second",
        removals=(Removal("hypotest/leadership.py", ", min(at_least, _BACKOFF_CAP))", ", 0.0)"),),
    ),
    Fault(
        fault="Hosts are started at one moment",
        happens="First polls are at once, or within pull_jitter of fresh settings; from the second on they are spread",
        test=_LONG + "test_hosts_that_start_together_do_not_stay_together",
        figure="100 hosts: under 15 in any second",
        removals=(
            Removal("hypotest/leadership.py", "if parted or not config.pull_jitter else 0", "if parted or True else 0"),
        ),
    ),
    Fault(
        fault="The server refuses connections",
        happens="One short line; events are kept, settings stay",
        test=_TRUST + "test_nobody_there",
        figure="3 ways of not being there",
        removals=(
            Removal(
                "hypotest/transport.py",
                "except (requests.RequestException, HTTPError, OSError, ValueError)",
                "except ZeroDivisionError",
            ),
        ),
    ),
    Fault(
        fault="The server accepts and says nothing",
        happens="Given up after five times connection_timeout, and said; the end of it is noticed by the next batch",
        test="tests/test_outage.py::test_trouble_ends_with_the_outage",
        figure="A server stopped by SIGSTOP",
        removals=(
            Removal(
                "hypotest/transport.py", "                timeout=self._timeout,\n", "                timeout=700,\n"
            ),
        ),
    ),
    Fault(
        fault="The server drips its answer, byte by byte",
        happens="Given up after ten times connection_timeout for the head, and as long for the body",
        test=_TRUST + "test_a_slow_drip",
        figure="7 places: status line, header, headers, body, chunks, between and after them",
        removals=(Removal("hypotest/transport.py", "if time.monotonic() > self._deadline:", "if False:"),),
    ),
    Fault(
        fault="500, 404, 409 or the like",
        happens="One request, nothing is split, everything is kept",
        test="tests/test_sender.py::test_an_outage_keeps_everything",
        figure="6 statuses",
        removals=(
            Removal(
                "hypotest/transport.py",
                "    raise (ServerAway if away else TransportError)(message, retry_after)\n\n\ndef _retry_after",
                "\n\ndef _retry_after",
            ),
        ),
    ),
    Fault(
        fault="413: the batch is too large",
        happens="The same events go in smaller batches, in order and each once",
        test="tests/test_sender.py::test_a_batch_too_large_is_split",
        figure="100 events, 0 dropped",
        removals=(
            Removal(
                "hypotest/sender.py",
                "            return self._settle_parts(batch, refusal)",
                "            raise refusal from None",
            ),
        ),
    ),
    Fault(
        fault="400 to everything, as from a broken proxy",
        happens="Nothing is set aside: all is kept, the log says what was answered",
        test="tests/test_sender.py::test_all_refused",
        figure="3 statuses, 0 dropped",
        removals=(Removal("hypotest/sender.py", "        if DELIVERED not in parts.fates:\n", "        if False:\n"),),
    ),
    Fault(
        fault="401 or 403: the token is refused",
        happens="Kept, and said with the status and what the server gave as its reason",
        test=_TRANSPORT + "test_statuses",
        figure="13 statuses, both calls",
        removals=(Removal("hypotest/transport.py", "if status in (401, 403):", "if status in ():"),),
    ),
    Fault(
        fault="200 with HTML, as from a captive portal, or with broken JSON",
        happens="Acknowledges nothing: the events are sent again",
        test=_TRANSPORT + "test_what_is_not_json_acknowledges_nothing",
        figure="4 bodies",
        removals=(
            Removal("hypotest/transport.py", "            orjson.loads(reply)\n", "            reply and None\n"),
        ),
    ),
    Fault(
        fault="An answer that ends in the middle",
        happens="Is none: settings stay, events are sent again",
        test=_TRANSPORT + "test_a_truncated_answer",
        figure="By length, by chunks, by gzip",
        removals=(
            Removal("hypotest/transport.py", "if unpacker is not None and body and not unpacker.eof:", "if False:"),
        ),
    ),
    Fault(
        fault="304 to a request that had nothing to compare with",
        happens="Is no answer: the settings are asked for again",
        test=_TRANSPORT + "test_unchanged_settings",
        figure="1 of 1",
        removals=(Removal("hypotest/transport.py", "            if etag is None:\n", "            if False:\n"),),
    ),
    Fault(
        fault="A settings document that is none",
        happens="The last good one stays in force, and it is asked for in full until it is mended",
        test="tests/test_poller.py::test_unusable_settings",
        figure="6 documents",
        removals=(
            Removal(
                "hypotest/poller.py",
                "        except SettingsError as error:\n",
                "        except ZeroDivisionError as error:\n",
            ),
        ),
    ),
    Fault(
        fault="The server commits a batch and dies before it answers",
        happens="The batch is sent again with the same ids, and counts once",
        test="tests/test_sender.py::test_events_of_ours_at_a_real_server",
        figure="2,500 events, 1,000 of them sent twice, each counted once",
        removals=(
            Removal("hypotest/backlog.py", 'f"{held.instance}-{held.number:x}-%x', 'f"{os.urandom(8).hex()}-%x'),
        ),
    ),
    Fault(
        fault="The server takes a part of a batch, and then asks for patience or goes away",
        happens="What passed is settled, and the rest waits for as long as it was told",
        test="tests/test_sender.py::test_an_outage_in_the_middle_of_a_split",
        figure="100 events, each once; before, 132 requests in 6 s in spite of Retry-After: 60",
        removals=(
            Removal("hypotest/sender.py", "        if cut_short is not None:", "        if cut_short is batch:"),
        ),
    ),
    Fault(
        fault="The server is back, and the sender has failed so often that it would wait for a minute",
        happens="The first poll that is answered makes it try again",
        test="tests/test_outage.py::test_a_poll_that_is_answered_makes_the_sender_try_again",
        figure="20 events at once, where the next attempt was an hour off",
        removals=(
            Removal(
                "hypotest/leadership.py", "            self._loops[1].wake()  # it serves again\n", "            pass\n"
            ),
        ),
    ),
    Fault(
        fault="An outage that shows in several ways: polls fail by one error, sends by another, each answer has an id",
        happens="As quiet as one cause: a new cause is told at once, one that comes back is not new",
        test="tests/faults/test_long_outage.py::test_an_outage_that_shows_in_many_ways",
        figure="At most 43 lines in an hour; before, 97",
        removals=(
            Removal(
                "hypotest/leadership.py",
                "            self._causes.add(cause)\n",
                "            self._causes = {cause}\n",
            ),
            Removal("hypotest/leadership.py", 'str(error).startswith("HTTP ")', "False"),
        ),
    ),
    Fault(
        fault="A second outage within a minute of the first one's end",
        happens="Whoever read that the server does not serve reads that it serves again",
        test="tests/faults/test_long_outage.py::test_the_last_line_says_how_it_is",
        figure="2 outages in 3 minutes",
        removals=(
            Removal(
                "hypotest/leadership.py",
                'log.line(log.INFO, "the server',
                'log.limited(log.INFO, "served", "the server',
            ),
        ),
    ),
    Fault(
        fault="After an outage the settings are refused",
        happens="The outage ends with the first answers, and the line says how long it was",
        test="tests/faults/test_long_outage.py::test_an_outage_ends_with_an_answer",
        figure="One minute; before, it counted until the settings were mended",
        removals=(
            Removal(
                "hypotest/leadership.py",
                '        self._trouble[flow] = ""\n',
                '        self._trouble[flow] = self._poller.error if flow == "poll" else ""\n',
            ),
        ),
    ),
]
