"""A newsletter with two experiments: ordinary celery tasks, and one line for each question or fact.

The pool's children are forked and end by `os._exit`, often in the middle of something. What they told HypoTest is in a
file by then, and another process sends it.

    send_mail     writes one reader the mail
    record_click  the reader followed the link in it
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from celery.utils.log import get_task_logger

import hypotest

# The local server with its defaults. In production these come from the environment of the service.
os.environ.setdefault("HT_TOKEN", "dev-token")
os.environ.setdefault("HT_SERVER_URL", "http://127.0.0.1:8000")

# A broker out of files, so that there is nothing to install. BROKER_URL=redis://localhost takes Redis.
MAIL = Path(__file__).with_name("broker")
SUBJECTS = {"control": "Our news", "question": "Have you seen our news?", "emoji": "\N{NEWSPAPER} Our news"}

app = Celery("newsletter", broker=os.environ.get("BROKER_URL", "filesystem://"))
app.conf.worker_concurrency = 4
if app.conf.broker_url.startswith("filesystem:"):
    MAIL.mkdir(exist_ok=True)
    folders = {name: str(MAIL) for name in ("data_folder_in", "data_folder_out")}
    app.conf.broker_transport_options = folders | {"control_folder": str(MAIL / "control")}

log = get_task_logger(__name__)


@worker_process_init.connect
def warm_up(**_more: Any) -> None:
    """A child can wait for its settings before its first task; without this, the first answers may be control."""
    hypotest.wait_until_ready(2)  # celery gives this 4 seconds


@app.task
def send_mail(reader: str, country: str) -> None:
    """Asks HypoTest what this reader is to get. celery may run a task twice: the reader counts once all the same."""
    tags = {"country": country}
    subject = hypotest.experiment("mail_subject", user_id=reader, tags=tags)
    when = hypotest.experiment("send_time", user_id=reader, tags=tags)
    log.info("%s gets %r %s", reader, SUBJECTS[str(subject)], "at once" if when.is_control else f"in the {when}")


@app.task
def record_click(reader: str) -> None:
    """Tells HypoTest that this reader followed the link."""
    hypotest.kpi_event("click", user_id=reader)
