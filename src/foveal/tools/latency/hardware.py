"""Where and with what a measurement was made."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from foveal.tools.commit import commit
from foveal.tools.cost import device_name

_PACKAGES = ("torch", "timm", "triton", "onnxruntime", "openvino", "foveal")


def hardware(device: torch.device) -> dict[str, Any]:
    """Where and with what a measurement is being made, plain values by name.

    The load is the machine's before the start; the commit is None outside of a clone.
    """
    found: dict[str, Any] = {
        "device": device_name(device),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "processor": device_name(torch.device("cpu")),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
            "gpu_processors": properties.multi_processor_count,
            **_driver(),
        }
    return found


def described(found: Mapping[str, Any]) -> str:
    """`hardware` as a sentence for the foot of a table."""
    names = ("torch", "timm", "triton", "onnxruntime", "openvino")
    packages = ", ".join(f"{name} {found[name]}" for name in names if found.get(name))
    load = "" if found["load_before"] is None else f", load {found['load_before']} before the start"
    device = " and ".join(found[name] for name in ("device", "processor") if found.get(name))
    commit = f"commit {found['commit']}" if found["commit"] else f"foveal {found['foveal']}"
    return (
        f"{device}, {found['cpu_cores']} processor cores{load}; "
        f"{packages}, {commit}, {found['date']}."
    )


def _driver() -> dict[str, str]:
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    driver, _, clock = text.splitlines()[0].partition(", ")
    return {"driver": driver, "clock_before": clock}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
