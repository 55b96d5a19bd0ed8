"""A configuration of gunicorn with the SDK's hooks and nothing else."""

from hypotest.integrations.gunicorn import post_fork, post_worker_init, worker_exit

__all__ = ["post_fork", "post_worker_init", "worker_exit"]
