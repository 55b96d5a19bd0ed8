"""What each peer fetches and posts: the settings document of so many experiments, and the events of a batch.

Every experiment has two variants, `control` and `b`, to halves, and is open to all. An event is an exposure or a
tracked event of one user. Summaries, diagnostics, registrations and contexts are no events: they would hide what was
lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

VARIANTS = ("control", "b")


class Format(NamedTuple):
    """One peer's.

    Attributes:
        document: the settings document with so many experiments, as JSON has it.
        events: how many events a posted document holds.
        taken: the status that says so.
    """

    document: Callable[[int], Any]
    events: Callable[[Any], int]
    taken: int = 200


def name(number: int) -> str:
    """An experiment's name."""
    return f"experiment_{number}"


def _nothing(_: Any) -> None:
    return None


def _none(_: Any) -> int:
    return 0


def _eppo(experiments: int) -> dict[str, Any]:
    def flag(key: str) -> dict[str, Any]:
        splits = [
            {
                "variationKey": variant,
                "shards": [{"salt": key, "ranges": [{"start": 5_000 * at, "end": 5_000 * (at + 1)}]}],
            }
            for at, variant in enumerate(VARIANTS)
        ]
        return {
            "key": key,
            "enabled": True,
            "variationType": "STRING",
            "variations": {variant: {"key": variant, "value": variant} for variant in VARIANTS},
            "totalShards": 10_000,
            "allocations": [{"key": "all", "rules": [], "splits": splits, "doLog": True}],
        }

    return {
        "createdAt": "2024-01-01T00:00:00.000Z",
        "format": "SERVER",
        "environment": {"name": "bench"},
        "flags": {name(number): flag(name(number)) for number in range(experiments)},
    }


def _launchdarkly(experiments: int) -> dict[str, Any]:
    def flag(key: str) -> dict[str, Any]:
        rollout = {"variations": [{"variation": at, "weight": 50_000} for at in range(len(VARIANTS))]}
        return {
            "key": key,
            "version": 1,
            "on": True,
            "targets": [],
            "rules": [],
            "prerequisites": [],
            "fallthrough": {"rollout": rollout},
            "offVariation": 0,
            "variations": list(VARIANTS),
            "salt": key,
            "trackEvents": True,  # an event for each evaluation; without it they are summarised as counts
            "deleted": False,
        }

    return {"flags": {name(number): flag(name(number)) for number in range(experiments)}, "segments": {}}


def _launchdarkly_events(batch: Any) -> int:
    """Its `index` events are contexts, and its `summary` counts the same evaluations again."""
    return sum(event["kind"] in ("feature", "custom") for event in batch) if isinstance(batch, list) else 0


def _statsig(experiments: int) -> dict[str, Any]:
    def bucket(key: str, below: int) -> dict[str, Any]:
        return {
            "type": "user_bucket",
            "targetValue": below,
            "operator": "lt",
            "field": None,
            "additionalValues": {"salt": key},
            "idType": "userID",
        }

    def experiment(key: str) -> dict[str, Any]:
        rules = [
            {
                "name": f"{key}_{variant}",
                "groupName": variant,
                "passPercentage": 100,
                "conditions": [f"{key}_{variant}"],
                "returnValue": {"variant": variant},
                "id": f"{key}_{variant}",
                "salt": f"{key}_{variant}",
                "idType": "userID",
                "isExperimentGroup": True,
            }
            for variant in VARIANTS
        ]
        return {
            "type": "dynamic_config",
            "salt": key,
            "enabled": True,
            "defaultValue": {},
            "rules": rules,
            "idType": "userID",
            "entity": "experiment",
            "version": 1,
            "isActive": True,
            "hasSharedParams": False,
        }

    keys = [name(number) for number in range(experiments)]
    return {
        "dynamic_configs": {key: experiment(key) for key in keys},
        "feature_gates": {},
        "layer_configs": {},
        "experiment_to_layer": {},
        "condition_map": {
            f"{key}_{variant}": bucket(key, 500 * (at + 1)) for key in keys for at, variant in enumerate(VARIANTS)
        },
        "has_updates": True,
        "time": 1_700_000_000_000,
        "response_format": "dcs-v2",
        "default_environment": "production",
        "id_lists": {},
        "diagnostics": {},
        "sdk_configs": {},
    }


def _statsig_events(batch: Any) -> int:
    return sum(event["eventName"] == "statsig::config_exposure" for event in batch.get("events", ()))


def _batch(batch: Any) -> int:
    return len(batch["batch"])


def _growthbook(experiments: int) -> dict[str, Any]:
    def feature(key: str) -> dict[str, Any]:
        rule = {"key": key, "hashAttribute": "id", "variations": list(VARIANTS), "weights": [0.5, 0.5], "coverage": 1}
        return {"defaultValue": "off", "rules": [rule]}

    return {"status": 200, "features": {name(number): feature(name(number)) for number in range(experiments)}}


def _unleash(experiments: int) -> dict[str, Any]:
    def feature(key: str) -> dict[str, Any]:
        variants = [
            {"name": variant, "weight": 500, "weightType": "variable", "stickiness": "userId"} for variant in VARIANTS
        ]
        strategy = {
            "name": "flexibleRollout",
            "parameters": {"rollout": "100", "stickiness": "userId", "groupId": key},
            "constraints": [],
            "segments": [],
            "variants": variants,
        }
        return {
            "name": key,
            "type": "experiment",
            "enabled": True,
            "project": "default",
            "stale": False,
            "strategies": [strategy],
            "variants": [],
            "impressionData": False,
        }

    return {"version": 2, "features": [feature(name(number)) for number in range(experiments)]}


def _optimizely(experiments: int) -> dict[str, Any]:
    def experiment(number: int) -> dict[str, Any]:
        ids = [f"{number}{at}" for at in range(len(VARIANTS))]
        return {
            "id": f"{number}",
            "key": f"{name(number)}_test",
            "layerId": f"{number}",
            "status": "Running",
            "audienceIds": [],
            "forcedVariations": {},
            "variations": [
                {"id": own, "key": variant, "featureEnabled": True, "variables": []}
                for own, variant in zip(ids, VARIANTS, strict=True)
            ],
            "trafficAllocation": [{"entityId": own, "endOfRange": 5_000 * (at + 1)} for at, own in enumerate(ids)],
        }

    return {
        "version": "4",
        "projectId": "1",
        "accountId": "1",
        "revision": "1",
        "anonymizeIP": True,
        "botFiltering": False,
        "sendFlagDecisions": True,
        "attributes": [],
        "audiences": [],
        "typedAudiences": [],
        "groups": [],
        "events": [],
        "rollouts": [],
        "variables": [],
        "experiments": [experiment(number) for number in range(experiments)],
        "featureFlags": [
            {"id": f"f{number}", "key": name(number), "experimentIds": [f"{number}"], "rolloutId": "", "variables": []}
            for number in range(experiments)
        ],
    }


def _optimizely_events(batch: Any) -> int:
    return sum(len(snapshot["events"]) for visitor in batch["visitors"] for snapshot in visitor["snapshots"])


def _hypotest(experiments: int) -> dict[str, Any]:
    def test(number: int) -> dict[str, Any]:
        return {
            "test_id": number + 1,
            "test_name": name(number),
            "experiment_hypothesis": "",
            "tag_names": [],
            "condition_to_enter_test": "True",
            "variants_distribution": dict.fromkeys(VARIANTS, 0.5),
            "goal_names": [],
            "test_state": "experiment",
            "test_active": True,
            "override_control": [],
            "override_b": [],
        }

    return {"tests": {name(number): test(number) for number in range(experiments)}}


def _hypotest_events(batch: Any) -> int:
    return len(batch.get("events", ()))


FORMATS = {
    "eppo": Format(_eppo, _none),
    "launchdarkly": Format(_launchdarkly, _launchdarkly_events),
    "statsig": Format(_statsig, _statsig_events),
    "segment": Format(_nothing, _batch),
    "growthbook": Format(_growthbook, _none),
    "unleash": Format(_unleash, _none, taken=202),
    "posthog": Format(_nothing, _batch),
    "optimizely": Format(_optimizely, _optimizely_events),
    "hypotest": Format(_hypotest, _hypotest_events),
}
