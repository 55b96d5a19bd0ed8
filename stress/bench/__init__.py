"""`python -m stress bench [--json F] [--plot DIR] [NAME...]`: our figures, and our peers', of one run on one machine.

Names of parts: calls, breakdown, tail, fleet, drain, kill, takeover, imports, instructions; all of them if none is
given, and each once. What it needs, peers too, comes with the extra `bench`; those that are not installed are left out,
and told. Linux only.
"""

from __future__ import annotations

from stress.bench.run import main

__all__ = ["main"]
