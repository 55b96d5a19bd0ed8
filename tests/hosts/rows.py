"""What was measured, a row for each host and mode: `table` makes docs/hosts.md's table of them."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(row: Mapping[str, Any]) -> None:
    """Writes one to the directory HOSTS_ROWS, if there is one."""
    directory = os.environ.get("HOSTS_ROWS")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        text = json.dumps({**row, "python": version, "at": time.time()})
        Path(directory, f"{uuid.uuid4().hex}.json").write_text(text, encoding="utf-8")
