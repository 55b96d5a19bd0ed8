"""Assignment: experiment, ids, tags and override -> decision. Pure: no clock, no randomness, no state.

The scheme, as in client 1.0.9 (every later version keeps it):

    key  = (visitor_id or user_id) + str(9300000028840 + test_id)
    h    = murmur3, x86, 32 bits, seed 1, unsigned, of the UTF-8 of key
    x    = floor(h / 2**32 * 10000) / 10000
    the first variant, in the order of the distribution, with x <= the sum of the shares so far

All of `h / 2**32 * 10000` is exact in a float (32 + 14 significant bits), so that x has 10,000 values and
each variant ends at an integer: h belongs to the first variant with `h < threshold`. `threshold()` computes
it, and a test compares the two on both sides of every edge.

Order of the checks: neither id; settings unusable; condition; `override` argument; the ids listed for control,
then those listed for b; the hash. The decisions an experiment can come to are made once, in `Experiment`.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from mmh3 import hash as murmur3

from hypotest.errors import ConditionError
from hypotest.interrupts import let_through
from hypotest.variant import CONTROL, CONTROL_VARIANT, Variant

TYPE_CHECKING = False  # of typing, which costs 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Condition = Callable[[Mapping[str, object] | None, str | None, str | None], bool]
    Tags = Mapping[str, object] | None

CALIBRATION = "calibration"
BUCKETS = 10_000
HASHES = 2**32
_SALT = 9_300_000_028_840
SEED = 1
_CALIBRATION_SHARES = ((CONTROL, 0.5), ("a", 0.5))

# Values of `ht_sdk_error`. The first five are 1.0.9's, letter for letter: a server may look for them.
NO_ID = "user_id or visitor_id must be sent"
NO_SETTINGS = "did not retrieved the settings in time"
BOTH_IDS = "both user_id and visitor_id where sent"
INACTIVE = "experiment is inactive"
NONE_LEFT = "this code should be unreachable"
NOT_DEFINED = "experiment not defined - fallback to control"
BAD_OVERRIDE = "override is not a variant of this experiment"
BAD_ID = "the id is not valid Unicode"


class Decision:
    """What one call came to. Shared between calls: treat it as immutable, but for `encoded`.

    Attributes:
        variant: what the caller gets.
        recorded: the variant name in the event; differs from `variant` in a calibration.
        error: value of `ht_sdk_error`, or None.
        override_reason: value of the tag of that name, or None.
        reported: False if this decision is no exposure, and no event may be sent.
        encoded: for events.py: what it keeps of the event bytes that depend on this decision. Only good for
            one experiment name, as a decision of an Experiment is; the functions below make a new one a call.
    """

    __slots__ = ("encoded", "error", "override_reason", "recorded", "reported", "variant")

    def __init__(
        self,
        variant: Variant,
        recorded: str,
        error: str | None = None,
        override_reason: str | None = None,
        *,
        reported: bool = True,
    ) -> None:
        self.variant = variant
        self.recorded = recorded
        self.error = error
        self.override_reason = override_reason
        self.reported = reported
        self.encoded: Any = None

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__ if name != "encoded")
        return f"Decision({fields})"


def _control(error: str) -> Decision:
    return Decision(CONTROL_VARIANT, CONTROL, error)


def no_id() -> Decision:
    """Decides for a call with neither id, whether or not the experiment is known: control."""
    return _control(NO_ID)


def undefined(reason: str = NOT_DEFINED) -> Decision:
    """Decides without an experiment: control; an `override` is not looked at, as in 1.0.9.

    Args:
        reason: NOT_DEFINED, or NO_SETTINGS while there are none yet.
    """
    return _control(reason)


def offline(override: object) -> Variant:
    """Gives the variant for `connect_to_server=False`: control, or what `override` names.

    Args:
        override: the caller's; anything but a non-empty str counts as absent.
    """
    return Variant(str.__str__(override)) if isinstance(override, str) and override else CONTROL_VARIANT


def threshold(total: float) -> int:
    """Counts the hashes h with `floor(h / 2**32 * 10000) / 10000 <= total`: 0 to 2**32."""
    if total >= 1:
        return HASHES
    if not total >= 0:
        return 0
    bucket = math.floor(total * BUCKETS) + 1
    while bucket / BUCKETS > total:  # the last bucket that is not above; the product may have been rounded
        bucket -= 1
    return min(HASHES, -(-(bucket + 1) * HASHES // BUCKETS))


class Experiment:
    """One experiment, ready to decide. Immutable in use; shared by all threads of a process.

    Args:
        name: its key in the settings, and what the event calls it.
        test_id: part of what is hashed.
        shares: (variant, share) in the order of the distribution; none negative.
        active: False adds an error to the event, and ends a calibration.
        state: `calibration` has its own distribution, and control for every caller.
        condition: None for the condition `True`.
        condition_text: for `explain`.
        override_control: ids that get control.
        override_b: ids that get b, if b is in the distribution.
        error: if given, the settings of this experiment are unusable: everyone gets control, and the event
            carries this as `ht_sdk_error`.
    """

    __slots__ = (
        "active",
        "bad_id",
        "bad_override",
        "both_ids",
        "condition",
        "condition_text",
        "guarded",
        "name",
        "no_id",
        "not_entered",
        "one_id",
        "overridden",
        "override_b",
        "override_control",
        "remote_b",
        "remote_control",
        "shares",
        "state",
        "suffix",
        "test_id",
        "thresholds",
        "unusable",
    )

    def __init__(  # noqa: PLR0913 - the fields of a settings entry, by keyword
        self,
        name: str,
        test_id: int,
        shares: Iterable[tuple[str, float]],
        *,
        active: bool = True,
        state: str = "",
        condition: Condition | None = None,
        condition_text: str = "True",
        override_control: Iterable[str] = (),
        override_b: Iterable[str] = (),
        error: str | None = None,
    ) -> None:
        own = tuple(shares)
        calibrating = state == CALIBRATION
        self.name = name
        self.test_id = test_id
        self.active = active
        self.state = state
        self.condition = condition
        self.condition_text = condition_text
        self.override_control = frozenset(override_control)
        self.override_b = frozenset(override_b) if any(variant == "b" for variant, _ in own) else frozenset()
        self.guarded = bool(condition or error is not None or self.override_control or self.override_b)
        self.shares = _CALIBRATION_SHARES if calibrating else own
        self.suffix = str(_SALT + test_id)
        self.thresholds = [threshold(total) for total in totals(self.shares)]

        names = dict.fromkeys([CONTROL, *(variant for variant, _ in (*own, *self.shares))])
        variants = {variant: Variant(variant) for variant in names}
        given = dict.fromkeys(names, CONTROL_VARIANT) if calibrating else variants
        hashed = [variant for variant, _ in self.shares]
        self.one_id = _table(hashed, given, None if active else INACTIVE)
        self.both_ids = _table(hashed, given, BOTH_IDS)
        self.overridden = {
            variant: Decision(variants[variant], variant, None, f"local_override_{variant}") for variant in names
        }
        self.remote_control = Decision(CONTROL_VARIANT, CONTROL, None, f"remote_override_{CONTROL}")
        self.remote_b = Decision(given.get("b", CONTROL_VARIANT), "b", None, "remote_override_b")
        self.not_entered = Decision(CONTROL_VARIANT, CONTROL, reported=False)
        self.no_id = _control(NO_ID)
        self.bad_id = _control(BAD_ID)
        self.bad_override = _control(BAD_OVERRIDE)
        self.unusable = None if error is None else _control(error)


def totals(shares: Sequence[tuple[str, float]]) -> list[float]:
    """Adds the shares up, as floats, in order: where each variant ends."""
    totals: list[float] = []
    total = 0.0
    for _, share in shares:
        total += share
        totals.append(total)
    return totals


def _table(names: Sequence[str], given: Mapping[str, Variant], error: str | None) -> list[Decision]:
    """One decision per variant, and one for the hashes that are left over."""
    return [*(Decision(given[name], name, error) for name in names), _control(NONE_LEFT)]


def decide(
    experiment: Experiment, user_id: str | None, visitor_id: str | None, tags: Tags, override: object
) -> Decision:
    """Decides one call: the hot path.

    Args:
        experiment: from the settings.
        user_id: already a str, or None; the empty str counts as absent.
        visitor_id: likewise; it is the one that is hashed if both are given.
        tags: what the condition sees; never changed.
        override: the caller's; anything falsy counts as absent.

    Returns:
        A decision of this experiment; a new one only for a condition that fails on these tags. Never raises.
    """
    if visitor_id:
        hashed = visitor_id
        table = experiment.both_ids if user_id else experiment.one_id
    elif user_id:
        hashed = user_id
        table = experiment.one_id
    else:
        return experiment.no_id
    if experiment.guarded or override is not None:
        decision = _unhashed(experiment, user_id, visitor_id, tags, override)
        if decision is not None:
            return decision
    try:
        # Bytes: given a str with a lone surrogate, mmh3 (5.3.1) reads through NULL and kills the process.
        key = (hashed + experiment.suffix).encode()
    except UnicodeEncodeError as error:
        let_through(error)
        return experiment.bad_id
    return table[bisect_right(experiment.thresholds, murmur3(key, SEED, False))]


def _unhashed(
    experiment: Experiment, user_id: str | None, visitor_id: str | None, tags: Tags, override: object
) -> Decision | None:
    """Decides without the hash, or gives None: everything a plain experiment has not."""
    if experiment.unusable is not None:
        return experiment.unusable
    if experiment.condition is not None:
        try:
            if not experiment.condition(tags, user_id, visitor_id):
                return experiment.not_entered
        except ConditionError as error:
            return _control(str(error))
    decision = None if override is None else _local(experiment, override)
    if decision is None and (user_id in experiment.override_control or visitor_id in experiment.override_control):
        decision = experiment.remote_control
    if decision is None and (user_id in experiment.override_b or visitor_id in experiment.override_b):
        decision = experiment.remote_b
    return decision


def _local(experiment: Experiment, override: object) -> Decision | None:
    # An object of the caller's: its truth value and its hash may raise.
    try:
        if not override:
            return None
        if isinstance(override, str):
            return experiment.overridden.get(override, experiment.bad_override)
    except Exception as error:  # noqa: BLE001 - the answer is the one below
        let_through(error)
    return experiment.bad_override


def has_utf8(text: str) -> bool:
    """Whether a text can be hashed and sent: one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        let_through(error)
        return False
    return True
