"""celery's broker: a Redis of the test's own, or folders; and a process that sends tasks by it.

`python -m tests.hosts.broker` reads names of work from its standard input and sends a task for each. The word before
the first hyphen is the task's name; HOSTS_TASK is sent for `work`, if it is set.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery import Celery

REDIS, FOLDERS = "redis", "filesystem"
_QUEUE, _STAGE, _CONTROL = Path("queue"), Path("stage"), Path("control")


def connected(*, stage: bool = False) -> Celery:
    """An application whose broker is HOSTS_BROKER, in the working directory.

    With `stage`, messages to the file system are written where nobody reads them: kombu's consumers look at files that
    are not yet complete.
    """
    app = Celery("tests.hosts.tasks")
    app.conf.update(
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        worker_lost_wait=1.0,  # of 10 s, which a stop lasts after the loss of a child, without the SDK, too
        worker_pool_start_method=os.environ.get("HOSTS_START_METHOD", "fork"),
    )
    if os.environ["HOSTS_BROKER"] == REDIS:
        app.conf.broker_url = f"redis+socket://{Path('redis').absolute()}"
        return app
    for folder in (_QUEUE, _STAGE, _CONTROL):
        folder.mkdir(exist_ok=True)
    app.conf.update(
        broker_url="filesystem://",
        worker_enable_remote_control=False,
        broker_transport_options={
            "data_folder_in": str(_QUEUE),
            "data_folder_out": str(_STAGE if stage else _QUEUE),
            "control_folder": str(_CONTROL),
            "polling_interval": 0.01,
        },
    )
    return app


def main() -> None:
    app = connected(stage=True)
    plain = os.environ.get("HOSTS_TASK", "work")
    for line in sys.stdin:
        name = line.strip()
        task = name.partition("-")[0]
        app.send_task(plain if task == "work" else task, (name,))
        if os.environ["HOSTS_BROKER"] == FOLDERS:
            for message in _STAGE.iterdir():
                message.rename(_QUEUE / message.name)


if __name__ == "__main__":
    main()
