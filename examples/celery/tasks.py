"""A newsletter with two experiments: ordinary celery tasks, and one line for each question or fact.

The pool's children are forked and end by `os._exit`, often in the middle of something. What they told HypoTest is in a
file by then, and another process sends it. Token and server come from HT_TOKEN and HT_SERVER_URL.

    send_mail     writes one reader the mail
    record_click  the reader followed the link in it
"""

from __future__ import annotations

import os

from celery import Celery
from celery.utils.log import get_task_logger

import hypotest
import hypotest.integrations.celery

SUBJECTS = {"control": "Our news", "question": "Have you seen our news?", "emoji": "\N{NEWSPAPER} Our news"}

app = Celery("newsletter", broker=os.environ.get("BROKER_URL", "redis://localhost"))
app.conf.worker_concurrency = 4
log = get_task_logger(__name__)

# Optional: a child takes part from its start, not from its first call on, and ends in order.
hypotest.integrations.celery.connect()


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
