"""The command line: `hypotest COMMAND`. Parses; what a command needs is imported when it is called.

Exit status, of every command: 0 done, 1 the answer is no, 2 could not be tried, 130 interrupted. Errors are one line on
stderr. A token is never printed, and HT_TOKEN is better than --token: the process list shows arguments.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, NoReturn

from hypotest import log
from hypotest.config import VERSION, Config, parse, resolve
from hypotest.errors import ConfigError, HypotestError

_DISTRIBUTION = "hypotest-python3-sdk"
_OVERRIDES = ("token", "server_url", "state_dir")
_INTERRUPTED = 130
_EPILOG = "Exit status: {}; 130 interrupted."
_NEEDS = {"server": ("starlette", "uvicorn", "yaml"), "demo": ("starlette", "uvicorn", "yaml", "gunicorn", "flask")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: of the command line, without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")
    command = f" {given[0]}" if given and given[0] in _COMMANDS else ""
    try:
        try:
            return _run(given)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except HypotestError as error:
        print(f"hypotest{command}: {log.escaped(str(error))}", file=sys.stderr)
        return getattr(error, "status", 2)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `hypotest status | head`: nobody listens any more
        _drop_output()
        return 1
    except OSError as error:
        from hypotest import statedir  # noqa: PLC0415 - for this only

        _drop_output()
        print(f"hypotest{command}: {log.escaped(statedir.describe(error))}", file=sys.stderr)
        return 2


def _drop_output() -> None:
    """Turns what is still to be written to nowhere: the interpreter would fail at it once more at its exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the values of unknown options: one may be a mistyped --token's."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
            what = f"unknown option {', '.join(names)}" if names else "too many arguments"
            prog = f"{self.prog} {args[0]}" if args and args[0] in _COMMANDS else self.prog
            self.exit(2, f"{prog}: {what} (see {prog} --help)\n")
        return options

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _run(given: list[str]) -> int:
    if given[:1] == ["serve"]:
        return _serve(given[1:])
    options = _parser().parse_args(given)
    return int(options.run(options))


def _serve(given: list[str]) -> int:
    """`hypotest serve`: its options are the server's, which is only imported here."""
    _require("server")
    from hypotest.server import run  # noqa: PLC0415

    epilog = _EPILOG.format(_COMMANDS["serve"].exits)
    parser = _Parser(prog="hypotest serve", description=run.DESCRIPTION, epilog=epilog, allow_abbrev=False)
    run.add_arguments(parser)
    return run.main(parser.parse_args(given))


def _require(extra: str) -> None:
    missing = [name for name in _NEEDS[extra] if find_spec(name) is None]
    if missing:
        raise HypotestError(f"pip install '{_DISTRIBUTION}[{extra}]' is needed first ({', '.join(missing)} missing)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="hypotest",
        description="A/B testing for preforking Python servers.",
        epilog="Every command has its own --help, with its exit status.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hypotest {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = _common_options()
    for name, command in _COMMANDS.items():
        declared = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            epilog=_EPILOG.format(command.exits),
            parents=[common] if command.looks_at_state else [],
            allow_abbrev=False,
        )
        declared.set_defaults(run=command.run)
        command.declare(declared)
    return parser


def _common_options() -> _Parser:
    common = _Parser(add_help=False)
    group = common.add_argument_group("whose state", "default: the environment, as the application has it")
    group.add_argument(
        "--token",
        type=_value_of("token"),
        metavar="TOKEN",
        help="of the project; prefer HT_TOKEN, since the process list shows arguments",
    )
    group.add_argument("--server-url", type=_value_of("server_url"), metavar="URL", help="HT_SERVER_URL")
    group.add_argument("--state-dir", type=_state_dir, metavar="DIR", help="HT_STATE_DIR")
    return common


def _value_of(name: str) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(name, text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None  # argparse names the option

    return checked


def _state_dir(text: str) -> Any:
    return _value_of("state_dir")(os.path.abspath(text) if text else text)


def _tag(text: str) -> tuple[str, object]:
    """`name=value`, where the value is a JSON scalar if it reads as one, else text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        scalar = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return name, value
    return name, value if isinstance(scalar, (dict, list)) else scalar


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _settle(options: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The configuration in force, and what the command line said of it."""
    given = {name: value for name in _OVERRIDES if (value := getattr(options, name)) is not None}
    config, warnings = resolve(given, os.environ)
    for warning in warnings:
        print(f"hypotest: {warning}", file=sys.stderr)
    return config, given


def _status(options: argparse.Namespace) -> int:
    from hypotest import commands  # noqa: PLC0415 - at the call, as in all functions below

    return commands.status(_settle(options)[0], as_json=options.json, ready=options.ready)


def _drain(options: argparse.Namespace) -> int:
    from hypotest import commands  # noqa: PLC0415

    return commands.drain(_settle(options)[0], timeout=options.timeout)


def _agent(options: argparse.Namespace) -> int:
    from hypotest import commands  # noqa: PLC0415

    return commands.agent(*_settle(options))


def _explain(options: argparse.Namespace) -> int:
    from hypotest import commands  # noqa: PLC0415

    return commands.explain(
        _settle(options)[0],
        options.name,
        user_id=options.user_id,
        visitor_id=options.visitor_id,
        tags=options.tag,
        override=options.override,
    )


def _check(options: argparse.Namespace) -> int:
    from hypotest import commands  # noqa: PLC0415

    return commands.check(_settle(options)[0])


def _demo(_options: argparse.Namespace) -> int:
    _require("demo")
    from hypotest.demo import run  # noqa: PLC0415

    return run.main()


def _no_options(_command: argparse.ArgumentParser) -> None:
    """For commands that have none of their own."""


def _status_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--ready", action="store_true", help="for probes: one line, and the exit status tells")


def _drain_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=_value_of("flush_timeout"), default=30.0, metavar="S", help="seconds, at most (%(default)g)"
    )


def _explain_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="the experiment")
    command.add_argument("--user-id", metavar="U")
    command.add_argument("--visitor-id", metavar="V")
    command.add_argument(
        "--tag",
        type=_tag,
        action="append",
        default=[],
        metavar="K=V",
        help="repeatable; V is read as JSON where it is a number, true, false, null or a quoted text, else as text",
    )
    command.add_argument("--override", metavar="X", help="as the application would pass it")


class _Command(NamedTuple):
    """A row of the command line.

    Attributes:
        summary: for the list of commands, and its own --help.
        exits: what its exit status says, each number of it.
        run: runs it; None for one with a parser of its own, which `_run` turns to first.
        declare: adds its options to a parser.
        looks_at_state: whether it takes the options that say whose state it is about.
    """

    summary: str
    exits: str
    run: Callable[[argparse.Namespace], int] | None = None
    declare: Callable[[argparse.ArgumentParser], None] = _no_options
    looks_at_state: bool = True


_COMMANDS = {
    "serve": _Command(
        "the local server: experiments, events, results",
        "0 stopped by a signal; 1 failed; 2 it cannot start as told",
        looks_at_state=False,
    ),
    "status": _Command(
        "how the SDK is doing on this host; starts and makes nothing",
        "0 told; with --ready, 0 only if settings are readable and a live leader exists, else 1; 2 it may not look",
        _status,
        _status_options,
    ),
    "drain": _Command(
        "deliver what is pending now, through the leader or as it, whatever HT_LEADER says",
        "0 nothing of what was pending at the start is left; 1 something is; 2 no state of this server and token,"
        " or it may not look; events of other servers and tokens are told and change nothing",
        _drain,
        _drain_options,
    ),
    "agent": _Command(
        "the sidecar: campaign in the foreground until SIGTERM, SIGINT or SIGHUP, whatever HT_LEADER says",
        "0 stopped by a signal; 2 it could not be tried, or the state directory that was named cannot be used",
        _agent,
    ),
    "explain": _Command(
        "why this id gets this variant, by the settings of the last run; no event, no network",
        "0 explained; 1 there are no settings, or no such experiment; 2 it could not be tried",
        _explain,
        _explain_options,
    ),
    "check": _Command(
        "fetch the settings and list every condition and field that version 2 does not accept",
        "0 there is none; 1 there are some; 2 the settings could not be fetched",
        _check,
    ),
    "demo": _Command(
        "the whole product at work: server, application, visitors, a kill, an outage, a change, the results",
        "0 nothing was lost or counted twice and every worker saw the change; 1 not so; 2 it could not be tried",
        _demo,
        looks_at_state=False,
    ),
}
