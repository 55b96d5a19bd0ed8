"""Neighbours and networks that mean harm."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_NEIGHBOURS = "tests/faults/test_neighbours.py"
_TLS = "tests/faults/test_tls.py"
_TRUST = "tests/test_transport_trust.py"
_SECRETS = "tests/faults/test_secrets.py"
_LOG = "tests/faults/test_log_abuse.py"

FAULTS = [
    Fault(
        "a FIFO stands where a file of ours should be",
        "nothing waits for it: it gives way or goes to quarantine, and all works on",
        f"{_NEIGHBOURS}::test_planted_files[fifo]",
        "in 4 places at once, 20 of 20 events delivered",
        (Removal("hypotest/platform.py", "flags | O_SAFE | os.O_NONBLOCK", "flags | O_SAFE"),),
    ),
    Fault(
        "symbolic links stand where files of ours should be",
        "they are not followed, and what they lead to stays as it is",
        f"{_NEIGHBOURS}::test_planted_files[symlink]",
        "in 4 places at once, 20 of 20 events delivered, 0 bytes written through one",
        (Removal("hypotest/platform.py", "O_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW", "O_SAFE = os.O_CLOEXEC"),),
    ),
    Fault(
        "a hard link to another file of ours stands where rejected events are appended",
        "nothing is appended to it",
        f"{_NEIGHBOURS}::test_planted_files[hard_link]",
        "0 bytes written to it",
        (Removal("hypotest/quarantine.py", "if os.fstat(fd).st_nlink > 1:", "if os.fstat(fd).st_nlink > 9:"),),
    ),
    Fault(
        "another user leaves a whole segment in a directory that stood open",
        "it goes to quarantine unsent; the modes are closed again",
        f"{_NEIGHBOURS}::test_forged_events_are_not_sent",
        "0 forged events sent",
        (
            Removal(
                "hypotest/platform.py",
                "return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()",
                "return stat.S_ISREG(found.st_mode)",
            ),
        ),
    ),
    Fault(
        "the lock file is another user's, who could hold the lock for ever",
        "it is not locked: events wait, and a line says why; delivered once it is removed",
        f"{_NEIGHBOURS}::test_a_planted_lock[foreign]",
        "20 of 20 events delivered after its removal",
        (
            Removal(
                "hypotest/lock.py",
                "platform.open_own(self.path, os.O_RDWR | os.O_CREAT)",
                "os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)",
            ),
        ),
    ),
    Fault(
        "the lock cannot be taken at all, and an operator looks for who holds it",
        "a line says that this process cannot lead, and why; none says that somebody holds it, by a pid of 0",
        f"{_NEIGHBOURS}::test_a_planted_lock[device]",
        "7 kinds of things that are no lock file",
        (
            Removal(
                "hypotest/leader.py",
                "            self._not_before = now + _LOCK_BACKOFF\n            return\n",
                "            self._not_before = now + _LOCK_BACKOFF\n",
            ),
        ),
    ),
    Fault(
        "somebody has put a link where our directory in /var/tmp would be",
        "it is not followed: control, and events are refused by count",
        f"{_NEIGHBOURS}::test_the_fallback_is_taken[symlink-64331]",
        "20 of 20 events counted as refused, nothing written",
        (Removal("hypotest/statedir.py", "found = os.lstat(path)", "found = os.stat(path)"),),
    ),
    Fault(
        "the state directory can be written by everybody",
        "it is not used, and a line says so; the next one is",
        "tests/test_statedir.py::test_a_root_that_others_can_write",
        "modes 0770, 0702, 1777",
        (Removal("hypotest/statedir.py", "if found.st_mode & forbidden:", "if found.st_mode & 0:"),),
    ),
    Fault(
        "the application runs with umask 0",
        "directories are 0700 and files 0600 all the same",
        f"{_SECRETS}::test_modes",
        "every path of a run of everything",
        (Removal("hypotest/platform.py", "os.O_NONBLOCK, 0o600)", "os.O_NONBLOCK, 0o666)"),),
    ),
    Fault(
        "the server's certificate is expired, another host's, self-signed or of an unknown authority",
        "no token is shown, events wait, and one line says why",
        f"{_TLS}::test_a_bad_certificate",
        "4 kinds, 0 requests",
        (Removal("hypotest/transport.py", "**settings,", "**settings | {'verify': False},"),),
    ),
    Fault(
        "the server redirects to plain HTTP or to another host",
        "not followed: the token goes nowhere else",
        f"{_TLS}::test_a_redirect_to_plain_http",
        "0 requests there",
        (
            Removal("hypotest/transport.py", "allow_redirects=False,", "allow_redirects=True,"),
            Removal("hypotest/transport.py", "def get_redirect_target(", "def not_overridden("),
        ),
    ),
    Fault(
        "HT_SERVER_URL says http, of another host",
        "nothing is sent without allow_http, and one line says so",
        f"{_TRUST}::test_no_plain_http_to_others",
        "5 ways to write one that looks like loopback",
        (
            Removal(
                "hypotest/transport.py",
                'if not (url.startswith("https:") or self._config.allow_http or _is_loopback(url)):',
                'if url == "":',
            ),
        ),
    ),
    Fault(
        "a proxy is set where the server is on loopback, by plain HTTP",
        "it is not used: the token would cross the network",
        f"{_TRUST}::test_loopback_does_not_go_through_a_proxy",
        "0 requests to it",
        (
            Removal(
                "hypotest/transport.py",
                'config.server_url.startswith("https:") or not _is_loopback(config.server_url)',
                "True",
            ),
        ),
    ),
    Fault(
        "the server quotes the token in its errors",
        "*** in log, status and on disk",
        f"{_SECRETS}::test_a_secret_is_nowhere",
        "0 occurrences in files, output, command lines, requests",
        (Removal("hypotest/transport.py", 'text = text.replace(form, "***")', "pass"),),
    ),
    Fault(
        "a configuration is printed, by the application or by a reporter of errors",
        "neither token nor salt is in it",
        "tests/test_config.py::test_no_repr_holds_a_secret",
        "both secrets",
        (Removal("hypotest/config.py", "if not option.secret)", "if True)"),),
    ),
    Fault(
        "a reporter of errors shows local variables",
        "our exceptions lead to no frame that holds the token",
        f"{_TRUST}::test_a_traceback_with_locals_has_no_token",
        "no answer and HTTP 500, of both calls",
        (
            Removal(
                "hypotest/transport.py",
                "            _clear_frames(chain)\n            del chain  # a cycle: they know this frame\n",
                "            raise TransportError(trouble) from error\n",
            ),
        ),
    ),
    Fault(
        "line breaks and terminal commands in file names, paths, settings and answers",
        "every line of the log is one line, printable, and of bounded length",
        f"{_LOG}::test_every_line_is_one_line",
        "0 lines forged",
        (Removal("hypotest/log.py", "else _fit(str(arg))", "else str(arg)"),),
    ),
    Fault(
        "terminal commands in what `hypotest` prints of settings and errors",
        "they are escaped",
        f"{_LOG}::test_a_terminal_gets_no_commands",
        "11 commands, 0 characters that are not printable",
        (Removal("hypotest/log.py", "if text.isprintable():", "if text:"),),
    ),
    Fault(
        "20,000 wrong calls, of 1,000 kinds of errors",
        "256 limits, which all further kinds share the last of; what was held back is counted",
        f"{_LOG}::test_floods[errors]",
        "at most 256 keys in memory, under 512 lines",
        (Removal("hypotest/log.py", "if key not in _last and not _has_room(now):", "if key is None:"),),
    ),
    Fault(
        "ids of people would be in files, requests and log",
        "with hash_ids their HMAC is, and variants stay the same",
        f"{_SECRETS}::test_with_hash_ids_no_id_is_anywhere",
        "0 occurrences after a run of everything",
        (Removal("hypotest/events.py", "        if not value:  # an empty", "        if value:  # an empty"),),
    ),
    Fault(
        "rejected events of people lie in quarantine",
        "deleted once nothing was added for max_event_age, also those of a former token",
        f"{_SECRETS}::test_quarantine_is_emptied",
        "2 namespaces, younger files kept",
        (Removal("hypotest/leadership.py", "self._backlog.sweep_quarantine()", "pass"),),
    ),
    Fault(
        "the server's address is mistyped",
        "the token goes nowhere, least of all to the default's server: control, events refused by count, and an error",
        "tests/test_behaviour.py::test_a_server_url_that_cannot_be_one[HT_SERVER_URL]",
        "by environment and by config(): 0 requests",
        (Removal("hypotest/config.py", "                    values[name] = NOWHERE\n", "                    pass\n"),),
    ),
    Fault(
        "the salt of hash_ids is one that cannot be used, an empty text for example",
        "ids are hashed under a salt that nobody knows, and a line says so",
        f"{_SECRETS}::test_an_unusable_salt_lets_no_id_out[True]",
        "3 such salts: 0 ids",
        (Removal("hypotest/runtime.py", '        _overrides["hash_ids"] = os.urandom(16).hex()\n', "        pass\n"),),
    ),
    Fault(
        "the local server is to be reached by others, with the token that everybody knows",
        "it does not start",
        "tests/server/test_serve_process.py::test_cannot_start[options4-by others, who know the token dev-token]",
        "by --token and by HT_TOKEN",
        (Removal("hypotest/server/run.py", "    if DEFAULT_TOKEN in tokens and", "    if not tokens and"),),
    ),
    Fault(
        "a gzip body of thousands of members, or of a head of 100 MB, unfolds to nothing",
        "what is on the wire counts, and there are 1,000 members at most",
        "tests/server/test_body.py::test_what_unfolds_to_nothing",
        "3 such bodies refused",
        (Removal("hypotest/server/body.py", "        if self._wire > self._limit:", "        if self._wire < 0:"),),
    ),
    Fault(
        fault="The host takes its secrets out of the environment after the start, and then forks or configures",
        happens="Token, server and salt stay as they were: no id is sent as it is",
        test="tests/test_reconfigure.py::test_secrets_that_are_taken_out_of_the_environment",
        figure="2 ways; before, plain ids in the spool, or every event refused",
        removals=(Removal("hypotest/runtime.py", "return ChainMap(os.environ, _kept)", "return os.environ"),),
    ),
]
