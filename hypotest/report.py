"""What the command line says about a status and about a decision, as text. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hypotest import log
from hypotest.assignment import HASHES
from hypotest.config import VERSION
from hypotest.explanation import Explanation
from hypotest.health import Status
from hypotest.neighbours import drain_command
from hypotest.onlooker import Neighbour

_STALE_FACTOR, _STALE_SLACK = 3, 10.0


def status_text(status: Status, neighbours: Sequence[Neighbour], *, alive: bool, passed: Sequence[str] = ()) -> str:
    """The status for people, most urgent first, one subject a line.

    Args:
        status: of this namespace.
        neighbours: other namespaces in which events wait.
        alive: whether the leader moves.
        passed: why state directories that come before the one in use are not used.
    """
    dropped = sum(status.dropped.values())
    settled = f"{status.delivered:,} delivered + {status.pending:,} pending + {dropped:,} dropped"
    lines = [
        ("hypotest", f"{VERSION}, {status.server_url}"),
        ("verdict", verdict(status, alive=alive, passed=passed)),
        ("leader", _leader(status, alive=alive)),
        ("settings", _settings(status)),
        ("events", f"{status.accepted:,} accepted = {settled}"),
        ("refused", _reasons(status.refused)),
        ("dropped", _reasons(status.dropped)),
        ("spool", size(status.spool_bytes)),
        ("traffic", f"{status.polls:,} polls, {status.sends:,} acknowledged batches"),
        ("last error", status.last_error or "none"),
        ("state", status.state_dir or "none"),
    ]
    lines += [("passed over", reason) for reason in passed]
    lines += [("elsewhere", neighbour_text(other)) for other in neighbours]
    return "\n".join(f"{subject:<11} {log.escaped(text)}" for subject, text in lines)


def neighbour_text(other: Neighbour) -> str:
    """What waits in another namespace, and the command that delivers it."""
    whose = "of this server and token"
    if not other.own:
        whose = f"for {other.server_url}" if other.server_url else "of another server, token or state directory"
    command = drain_command(other.root, other.server_url, ours=other.own)
    return f"{other.pending:,} events {whose} wait in {other.path}; to deliver them: {command}"


def verdict(status: Status, *, alive: bool, passed: Sequence[str] = ()) -> str:
    """One line: ready, or why not."""
    if not alive and not status.leader_pid and not status.pending:
        idle = "idle: nobody leads here, and nothing is pending"
        return idle if status.ready else f"{idle}; no settings have arrived yet"
    if not status.ready:
        why = f": {status.last_error}" if status.last_error else ""
        return f"NOT READY: there are no settings yet, every answer is control{why}"
    if not alive:
        return (
            "NOT READY, nobody leads: settings stay as they are and events wait on disk; start the application, or run"
            " `hypotest drain`"
        )
    troubles = [
        *([f"EVENTS ARE REFUSED: {status.refusing}"] if status.refusing else []),
        *(["the directory that was named is passed over"] if passed else []),
        *(["trouble with the server: see the last error"] if status.last_error else []),
    ]
    return f"ready, but {'; '.join(troubles)}" if troubles else "ready"


def _leader(status: Status, *, alive: bool) -> str:
    count = f"leader {status.leaders} since the state directory was made"
    if alive:
        return f"pid {status.leader_pid}, alive; {count}"
    if status.leader_pid:
        return (
            f"pid {status.leader_pid} DOES NOT MOVE: it ended without signing off (killed, or an end without exit"
            f" handlers), or it is stopped; {count}"
        )
    if status.leaders:
        return f"NONE; the last one, {count}, signed off"
    return "NONE; there never was one"


def _settings(status: Status) -> str:
    if not status.ready:
        return "NONE"
    if status.settings_age is None:
        return f"generation {status.generation}, never confirmed"
    told = f"generation {status.generation}, confirmed by the server {age(status.settings_age)} ago"
    interval = status.leader_config.get("pull_interval", math.inf) + status.leader_config.get("pull_jitter", 0)
    return told + (" (STALE)" if status.settings_age > _STALE_FACTOR * interval + _STALE_SLACK else "")


def _reasons(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    return f"{sum(counts.values()):,}: {listed}" if counts else "none"


def size(count: int) -> str:
    """A number of bytes, to three digits."""
    number, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1000 and len(units) > 1:  # noqa: PLR2004
        number, units = number / 1024, units[1:]
    return f"{number:.3g} {units[0]}"


def age(seconds: float) -> str:
    """A duration, in the unit that people use for one of its length."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"), (math.inf, 86_400, "days")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return "?"


def explanation_text(found: Explanation, generation: int, settings_age: float) -> str:
    """A decision and how it came about, in the order in which it was made."""
    decision = found.decision
    state = ", ".join(filter(None, ("active" if found.active else "NOT ACTIVE", found.state)))
    lines = [
        ("experiment", f"{found.experiment} ({state}); settings generation {generation}, from {age(settings_age)} ago"),
        ("condition", f"{found.condition}  ->  {_condition_value(found)}"),
        ("override", repr(found.override) if found.override else "none given"),
    ]
    if found.h is not None:
        lines += [
            ("hashed", f"{found.key!r}"),
            ("hash", f"{found.h} of {HASHES}, as a share {found.x}"),
        ]
    below = 0
    for row in found.table:
        here = found.h is not None and below <= found.h < row.threshold
        lines.append(
            (
                "share",
                f"{row.variant:<12} {row.share:<6g} hashes below {row.threshold}{'  <- the hash' if here else ''}",
            ),
        )
        below = row.threshold
    lines.append(("decided by", found.by))
    lines.append(("variant", str(decision.variant)))
    lines.append(("event", _event(found)))
    return "\n".join(f"{subject:<11} {log.escaped(text)}" for subject, text in lines)


def _condition_value(found: Explanation) -> str:
    return str(found.condition_value) if found.condition_error is None else f"error: {found.condition_error}"


def _event(found: Explanation) -> str:
    decision = found.decision
    if not decision.reported:
        return "none: the condition keeps this id out of the experiment"
    parts = [f"visit, variant {decision.recorded}"]
    if decision.override_reason:
        parts.append(f"override_reason {decision.override_reason}")
    if decision.error:
        parts.append(f"ht_sdk_error {decision.error!r}")
    return ", ".join(parts)
