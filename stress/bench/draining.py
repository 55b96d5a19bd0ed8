"""The processes of `drain.py`, each of which prints what it found: `python -m stress.bench.draining WHAT ...`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import requests

import hypotest
from hypotest import lazy

_EVENTS, _WORK = 10, 200


def write(events: int) -> None:
    """Makes so many events as an application does, which another process is to send."""
    for n in range(events):
        hypotest.kpi_event("purchase", visitor_id=f"visitor-{n:08d}", value=19.99, tags={"currency": "EUR"})
    print(hypotest.status().accepted)


def lead(core: int) -> None:
    """Leads from the moment that it is told to until its input ends; has loaded all of its code before."""
    os.sched_setaffinity(0, {core})
    lazy.load("hypotest.leadership")
    print("ready", flush=True)
    sys.stdin.readline()
    print(time.monotonic(), flush=True)
    hypotest.experiment("button", user_id="1", report_event=False)
    sys.stdin.read()


def post(core: int, url: str, bodies: str, times: int) -> None:
    """Posts the bodies of a file in turn, by requests and nothing else.

    Prints the bytes for each second in one session, and by `requests.post`, which makes a session for each.
    """
    os.sched_setaffinity(0, {core})
    kept = []
    with Path(bodies).open("rb") as file:
        while line := file.readline():
            kept.append(file.read(int(line)))
    headers = {"Content-Type": "application/json"}
    with requests.Session() as session:
        session.trust_env = False
        for send in (session.post, requests.post):
            send(url, data=kept[0], headers=headers).json()
            sent, began = 0, time.monotonic()
            for n in range(times):
                send(url, data=(data := kept[n % len(kept)]), headers=headers)
                sent += len(data)
            print(sent / (time.monotonic() - began))


def trickle(core: int, rate: int, seconds: float, *, idles: bool) -> None:
    """An application that leads, has work of its own, and makes so many events a second, ten at a time.

    One that idles finds the caches cold each time: its first call after a sleep takes twenty times as long.

    Prints the CPU seconds of calls and of our threads, those in all, and how many events it made.
    """
    os.sched_setaffinity(0, {core})
    hypotest.wait_until_ready(timeout=10.0)
    time.sleep(2.0)
    pause, calls = _EVENTS / rate, 0.0
    began, before = time.monotonic(), _cpu_of_threads()
    due = began
    while due < began + seconds:
        due += pause
        if idles:
            time.sleep(max(0.0, due - time.monotonic()))
        _work(until=due)
        cpu = time.thread_time()
        for n in range(_EVENTS // 2):
            hypotest.experiment("button", visitor_id=f"visitor-{n}", tags={"country": "DE"})
            hypotest.kpi_event("purchase", visitor_id=f"visitor-{n}", value=19.99, tags={"currency": "EUR"})
        calls += time.thread_time() - cpu
    print(calls, _cpu_of_threads() - before, time.monotonic() - began, hypotest.status().accepted)


def _work(until: float) -> None:
    """What an application does by itself: a little, and then until a time."""
    text = json.dumps({"number": 17, "items": ["text"] * 20})
    for _ in range(_WORK):
        text = json.dumps(json.loads(text))
    while time.monotonic() < until:
        text = json.dumps(json.loads(text))


def _cpu_of_threads() -> float:
    """The seconds that all threads but this one have run."""
    tasks = (task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid()))
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main(what: str, *arguments: str) -> None:
    if what == "write":
        write(int(arguments[0]))
    elif what == "lead":
        lead(int(arguments[0]))
    elif what == "post":
        post(int(arguments[0]), arguments[1], arguments[2], int(arguments[3]))
    else:
        trickle(int(arguments[0]), int(arguments[1]), float(arguments[2]), idles=arguments[3] == "idle")


if __name__ == "__main__":
    main(*sys.argv[1:])
