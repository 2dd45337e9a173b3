"""What to type where an optional part is not installed. Hindsight is in no package index: its extras are
installed from a copy of the repository.
"""

from __future__ import annotations

__all__ = ["install_extra"]


def install_extra(*extras: str) -> str:
    """`pip install ".[cpu,video]" in Hindsight's repository`."""
    return f'pip install ".[{",".join(extras)}]" in Hindsight\'s repository'
