"""The software and the machine of a run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from steersman import __version__


def software_and_machine(device: str) -> dict[str, Any]:
    """Versions, the commit, the processor and the GPU."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pydantic")
    machine: dict[str, Any] = {"processor": _processor(), "cores": _cores(), "python": platform.python_version()}
    if device != "cpu":
        machine["gpu"] = _gpu(device)
    return {
        "steersman": __version__,
        "git": _git_revision(),
        "packages": {name: version(name) for name in packages},
        "machine": machine,
    }


def _git_revision() -> str | None:
    """The commit of Steersman's own checkout, with ``+changes`` when it is dirty; None outside one."""
    import subprocess

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    revision = git("rev-parse", "--short", "HEAD")
    return revision and revision + ("+changes" if git("status", "--porcelain") else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _cores() -> int:
    import torch

    return torch.get_num_threads()
