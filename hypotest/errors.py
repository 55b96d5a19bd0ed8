"""The exception tree. None of these ever leaves a public function of the SDK.

HypotestError
├── ConfigError            a configuration value that cannot be used
├── SettingsError          a settings document, or an entry of it, that cannot be used
├── ConditionError         a condition that has no boolean value for these tags
│   └── ConditionSyntaxError   a condition outside the grammar
├── EventRefused           an event that cannot be kept; says why in one word
├── StorageError           the state directory cannot be used
│   └── CorruptFile        a file that is not what its name says
├── ThreadsStandStill      the host lets no thread of ours move while it waits for a request
└── TransportError         the server did not do what was asked; nothing is lost, try later
    ├── ServerAway         no connection, 429, 503: whatever was sent
    ├── Unauthorized       401, 403
    ├── PayloadTooLarge    413: the same events in smaller batches may pass
    └── PayloadRejected    400, 422: one of the events may be at fault
"""

from __future__ import annotations


class HypotestError(Exception):
    """Base of every error of this package."""


class ConfigError(HypotestError, ValueError):
    """A configuration value has the wrong type or is out of range."""


class SettingsError(HypotestError, ValueError):
    """A settings document, or one experiment of it, cannot be used."""


class ConditionError(HypotestError):
    """A condition has no boolean value for the given tags."""


class ConditionSyntaxError(ConditionError, ValueError):
    """A condition is outside the grammar or over one of its caps."""


class EventRefused(HypotestError):
    """An event cannot be kept.

    Attributes:
        reason: one of `hypotest.accounts.REFUSALS`, the word under which it is counted.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class StorageError(HypotestError, OSError):
    """The state directory, or a file in it, cannot be used."""


class CorruptFile(StorageError):
    """A file is damaged, truncated, or of another format version."""


class ThreadsStandStill(HypotestError, RuntimeError):
    """The host keeps the interpreter to itself while it waits for a request: a leader in it would be stuck."""


class TransportError(HypotestError):
    """The server could not be reached or did not acknowledge.

    Attributes:
        retry_after: seconds the server asked us to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerAway(TransportError):
    """No connection, 429 or 503: the fault is not what was sent."""


class Unauthorized(TransportError):
    """The server refused the token (401, 403)."""


class PayloadTooLarge(TransportError):
    """The batch was over the server's size limit (413)."""


class PayloadRejected(TransportError):
    """The server called the batch malformed (400, 422)."""
