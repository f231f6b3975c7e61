"""The platforms an engine can run on: operating system and processor, in one word."""

from __future__ import annotations

import platform

PLATFORMS = ("linux-x86_64", "windows-x86_64", "linux-aarch64")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def this_platform() -> str:
    """The platform of this machine: "linux-x86_64", "windows-x86_64", "linux-aarch64", or another of that form."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
