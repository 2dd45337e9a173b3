"""What a measurement was made with: the machine, and the commit of the code. For result files."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["commit", "hardware", "origin", "processor", "processor_name"]


def origin(device: str, *packages: str) -> dict[str, Any]:
    """What every result says of itself: hardware, versions of the packages, commit, today's date."""
    return {
        "hardware": hardware(device),
        "versions": {name: version(name) for name in packages},
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def hardware(device: str) -> str:
    """The GPU's name, or the processor's with its cores, for a device as torch names it."""
    if not device.startswith("cuda"):
        return processor()
    import torch  # slow to import, and who measures a server needs none

    return torch.cuda.get_device_name(device)


def processor() -> str:
    """The processor's name and how many cores there are."""
    return f"{processor_name()}, {os.cpu_count()} cores"


def processor_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """As Linux has it, whose platform.processor() knows at best the architecture; elsewhere as Python has."""
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit(folder: Path = Path(__file__).parent) -> str:
    """The 40 digits of the checkout's commit, and "-dirty" if files differ from it; "unknown" outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return found.stdout.strip() or "unknown"
