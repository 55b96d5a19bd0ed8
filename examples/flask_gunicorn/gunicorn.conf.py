"""gunicorn reads this file by itself when it is started here. HypoTest needs none of it: no hook, no set-up."""

# Optional: on a host where nothing has run yet, the settings are there before the first request. So is a leader.
from hypotest.integrations.gunicorn import post_fork, post_worker_init, worker_exit  # noqa: F401

bind = "127.0.0.1:8080"
workers = 4
preload_app = True  # or not: both work
