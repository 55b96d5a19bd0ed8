"""HypoTest: A/B testing for preforking Python servers.

>>> import hypotest
>>> hypotest.config(connect_to_server=False)
>>> hypotest.experiment("checkout", user_id="u1", override="b").is_b
True
"""

from hypotest.api import config, experiment, flush, kpi_event, match_user_visitor, status, wait_until_ready
from hypotest.config import VERSION
from hypotest.health import Status
from hypotest.variant import Variant

__version__ = VERSION

__all__ = [
    "Status",
    "Variant",
    "__version__",
    "config",
    "experiment",
    "flush",
    "kpi_event",
    "match_user_visitor",
    "status",
    "wait_until_ready",
]
