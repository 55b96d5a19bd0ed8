"""The clients that ours is compared with, each in the fastest way that an application may use it with its events.

`python -m stress.bench.peers [CALLS [ROUNDS]]` prints what a call costs: the median hardly has in it what a peer's
own thread takes from a call while it sends, the mean has.

Give each call a user of its own: some report a user only once (Statsig within a minute, GrowthBook for ever), and are
cheaper from then on. Queues hold a million events, so that no call is cheap because its event is dropped. At exit the
clients are closed, as an application does it, and most send all that waits: Optimizely gives up after 5 s, and 1.0.9 at
once.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from queue import Queue
from typing import Any

from stress.bench.aside import fetch
from stress.bench.formats import VARIANTS, name
from stress.bench.peer import Call, Peer
from stress.bench.sink import Sink
from tests.oracle import PACKAGE, REQUIREMENTS
from tests.packages import Missing, obtained
from tests.server_process import clean_env

FIRST = name(0)
KPI = "purchase"
_WAITING = 1_000_000
_READY = "ready"
_PATIENCE = 10
_CHUNK = 10
FOLDER = "client-1.0.9"


def _check(answer: object) -> None:
    assert answer in VARIANTS, f"not ready: {answer!r}"


def _eppo(url: str, experiments: int) -> Call:
    """Settings given at the start, nothing polled: the least that it can do."""
    from eppo_client import AssignmentLogger, ClientConfig, Configuration, init

    class Log(AssignmentLogger):
        def log_assignment(self, event: dict[str, Any]) -> None:
            """Delivers nothing."""

    client = init(
        ClientConfig(
            api_key="bench",
            base_url=f"{url}/{experiments}/eppo",
            assignment_logger=Log(),
            poll_interval_seconds=None,
            initial_configuration=Configuration(flags_configuration=fetch(f"{url}/{experiments}/eppo")),
        )
    )
    atexit.register(client.shutdown)
    ask = client.get_string_assignment
    attributes: dict[str, str | int | float | bool | None] = {}
    _check(ask(FIRST, _READY, attributes, "default"))
    return lambda user: ask(FIRST, user, attributes, "default")


def _launchdarkly(url: str, experiments: int) -> Call:
    """The flag asks for an event of each evaluation (`trackEvents`), as an experiment's does."""
    from ldclient import Config, Context, LDClient

    base = f"{url}/{experiments}/launchdarkly"
    client = LDClient(
        Config("bench", base_uri=base, events_uri=base, stream_uri=base, stream=False, events_max_pending=_WAITING),
        start_wait=_PATIENCE,
    )
    atexit.register(client.close)
    _check(client.all_flags_state(Context.create(_READY)).get_flag_value(FIRST))
    return lambda user: client.variation(FIRST, Context.create(user), "default")


def _statsig(url: str, experiments: int) -> Call:
    from statsig_python_core import ExperimentEvaluationOptions, Statsig, StatsigOptions, StatsigUser

    base = f"{url}/{experiments}/statsig"
    options = StatsigOptions(
        specs_url=f"{base}/v2/download_config_specs",
        log_event_url=f"{base}/v1/log_event",
        id_lists_url=f"{base}/v1/get_id_lists",
        event_logging_max_pending_batch_queue_size=_WAITING // 1000,
        disable_country_lookup=True,
        output_log_level="none",
        init_timeout_ms=_PATIENCE * 1000,
    )
    client = Statsig("secret-bench", options)
    client.initialize().wait()
    atexit.register(lambda: client.shutdown().wait())
    silent = ExperimentEvaluationOptions(disable_exposure_logging=True)
    _check(client.get_experiment(StatsigUser(_READY), FIRST, silent).value.get("variant"))
    ask = client.get_experiment
    return lambda user: ask(StatsigUser(user), FIRST).value["variant"]


def _segment(url: str, experiments: int) -> Call:
    from segment.analytics.client import Client

    client = Client("bench", host=f"{url}/{experiments}/segment", max_queue_size=_WAITING)
    atexit.register(client.shutdown)
    return lambda user: client.track(user, KPI)


def _growthbook(url: str, experiments: int) -> Call:
    """One instance for all users. One for each request, as its documentation has it, costs half as much again."""
    from growthbook import GrowthBook

    def viewed(**_: object) -> None:
        """Delivers nothing."""

    client = GrowthBook(
        features=json.loads(fetch(f"{url}/{experiments}/growthbook"))["features"], on_experiment_viewed=viewed
    )

    def ask(user: str) -> str:
        client.set_attributes({"id": user})
        answer: str = client.get_feature_value(FIRST, "default")
        return answer

    _check(ask(_READY))
    return ask


def _unleash(url: str, experiments: int) -> Call:
    """Sends no events, but how often each variant was given."""
    from UnleashClient import UnleashClient

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    client = UnleashClient(
        url=f"{url}/{experiments}/unleash",
        app_name="bench",
        cache_directory=folder.name,
    )
    client.initialize_client()
    atexit.register(client.destroy)
    ask = client.get_variant
    _check(ask(FIRST, {"userId": _READY})["name"])
    return lambda user: ask(FIRST, {"userId": user})["name"]


def _posthog(url: str, experiments: int) -> Call:
    from posthog import Posthog

    client = Posthog("bench", host=f"{url}/{experiments}/posthog", max_queue_size=_WAITING)
    atexit.register(client.shutdown)
    return lambda user: client.capture(KPI, distinct_id=user)


def _optimizely(url: str, experiments: int) -> Call:
    """Batches of 100: with its batches of one, a thread of its own takes most of the interpreter."""
    from optimizely.event.event_processor import BatchEventProcessor
    from optimizely.event_dispatcher import EventDispatcher
    from optimizely.optimizely import Optimizely

    base = f"{url}/{experiments}/optimizely"

    class ToSink:
        """Its own dispatcher; the URL of events is a constant of it."""

        @staticmethod
        def dispatch_event(event: Any) -> None:
            event.url = base
            EventDispatcher.dispatch_event(event)

    processor = BatchEventProcessor(
        ToSink, event_queue=Queue(_WAITING), batch_size=100, flush_interval=1, start_on_init=True
    )
    client = Optimizely(datafile=fetch(base).decode(), event_processor=processor)
    atexit.register(processor.stop)
    ask = client.create_user_context
    _check(ask(_READY).decide(FIRST, ["DISABLE_DECISION_EVENT"]).variation_key)
    return lambda user: ask(user).decide(FIRST).variation_key


def _hypotest(url: str, experiments: int) -> Call:
    """Its server stands in its source, and its threads begin at the import: both are caught up with here."""
    sys.path.insert(0, str(obtained(FOLDER, *REQUIREMENTS)))
    # One that gives up waiting sends again, and the server of a test counts that as well.
    for_it = {"HT_ASYNC_MODE": "false", "HT_CONNECTION_TIMEOUT": str(_PATIENCE)}
    os.environ.update(for_it)
    try:
        client = importlib.import_module(PACKAGE)
    finally:
        del sys.path[0]
        for name in for_it:
            del os.environ[name]
    settings = sys.modules[f"{PACKAGE}.config"].ht_config
    settings.address, _, port = url.rpartition(":")
    settings.port = f"{port}/{experiments}/hypotest"
    settings.async_mode = True
    client.config(token="bench", log_level="CRITICAL")
    sys.modules[f"{PACKAGE}.hypotest"].start_threads()
    fetched = sys.modules[f"{PACKAGE}.retrieve_experiments"].experiments
    end = time.monotonic() + _PATIENCE
    while len(fetched) < experiments and time.monotonic() < end:
        time.sleep(0.01)
    ask = client.experiment
    _check(str(ask(FIRST, _READY, report_event=False)))
    return lambda user: ask(FIRST, user).variant


PEERS = (
    Peer("eppo-server-sdk", "eppo-server-sdk", "eppo_client", "assignment and log callback, no delivery", _eppo),
    Peer("launchdarkly-server-sdk", "launchdarkly-server-sdk", "ldclient", "variation, with event", _launchdarkly),
    Peer("statsig-python-core", "statsig-python-core", "statsig_python_core", "experiment, with exposure", _statsig),
    Peer("segment-analytics", "segment-analytics-python", "segment.analytics", "track", _segment, configured=False),
    Peer("client 1.0.9", REQUIREMENTS[0], PACKAGE, "experiment, with event", _hypotest),
    Peer("growthbook", "growthbook", "growthbook", "feature value and tracking callback, no delivery", _growthbook),
    Peer("UnleashClient", "UnleashClient", "UnleashClient", "variant, counted", _unleash),
    Peer("posthog", "posthog", "posthog", "capture", _posthog, configured=False),
    Peer("optimizely-sdk", "optimizely-sdk", "optimizely.optimizely", "decide, with event", _optimizely),
)
DELIVERING = (
    "launchdarkly-server-sdk",
    "statsig-python-core",
    "segment-analytics",
    "client 1.0.9",
    "posthog",
    "optimizely-sdk",
)
"""Those that bring single events to a server by themselves."""


def missing(peer: Peer) -> str:
    """Why a peer cannot be compared here; "" if it can."""
    if peer.module == PACKAGE:
        try:
            obtained(FOLDER, *REQUIREMENTS)
        except Missing as reason:
            return str(reason)
        return ""
    if importlib.util.find_spec(peer.module.partition(".")[0]) is None:
        return f"{peer.distribution} is not installed"
    return ""


def _time(peer: Peer, url: str, calls: int) -> tuple[float, float]:
    """Microseconds for a call: the median of tens of calls, and the mean. A tenth more calls come first."""
    call = peer.make(url, 1)
    users = [f"user-{number}" for number in range(calls + calls // 10)]
    _run(call, users[calls:])
    spans = [_run(call, users[first : first + _CHUNK]) for first in range(0, calls, _CHUNK)]
    return 1e6 * statistics.median(spans) / _CHUNK, 1e6 * sum(spans) / calls


def _run(call: Call, users: list[str]) -> float:
    began = time.perf_counter()
    for user in users:
        call(user)
    return time.perf_counter() - began


def main(calls: str = "20000", rounds: str = "5") -> None:
    """Takes turns among the peers, each time in a process of its own, and prints the median of the rounds."""
    found: dict[str, list[tuple[float, float]]] = {peer.name: [] for peer in PEERS if not missing(peer)}
    with Sink() as sink:
        for _ in range(int(rounds)):
            for who, costs in found.items():
                child = [sys.executable, "-m", "stress.bench.peers", "--one", who, sink.url, calls]
                done = subprocess.run(child, capture_output=True, text=True, check=True, env=clean_env(), timeout=120)
                median, mean = map(float, done.stdout.split()[-2:])
                costs.append((median, mean))
    print(f"{'us for a call':75}{'median':>8}{'mean':>8}")
    for peer in PEERS:
        if peer.name in found:
            median, mean = map(statistics.median, zip(*found[peer.name], strict=True))
            print(f"{peer.name:24}{peer.what:50} {median:8.2f}{mean:8.2f}")
        else:
            print(f"{peer.name:24}{missing(peer)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        (chosen,) = (peer for peer in PEERS if peer.name == sys.argv[2])
        print(*_time(chosen, sys.argv[3], int(sys.argv[4])), flush=True)
    else:
        main(*sys.argv[1:])
