"""The validation layer, with synchronization validation, watches every test that runs the vulkan driver."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mossnet_tg.codegen.moss_file import Region
from tests.conformance import vulkan
from tests.conformance.conftest import UNDER_LAYER
from tests.conformance.vulkan import buffer, kernel
from tests.conformance.vulkan_plans import READ, ROW, WRITTEN, Module, Plan, toy
from tests.runtime.toy import ROOT

LAYER = "VK_LAYER_KHRONOS_validation"
LAYERS = [Path(p) / "vulkan/explicit_layer.d" for p in ("/usr/share", "/usr/local/share", "/etc")]


def unavailable() -> str | None:
    if reason := vulkan.unavailable():
        return reason
    files = [path for folder in LAYERS for path in folder.glob("*.json")]
    if not any(json.loads(path.read_text()).get("layer", {}).get("name") == LAYER for path in files):
        return f"no {LAYER}: apt install vulkan-validationlayers"
    return None


pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def watched(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python under the layer, which writes what it has to say to stdout."""
    settings = folder / "vk_layer_settings.txt"
    settings.write_text(
        "khronos_validation.log_filename = stdout\n"
        "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n"
        "khronos_validation.report_flags = error,warn\n"
        "khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT\n"
    )
    env = {
        **os.environ,
        **vulkan.DRIVER.env,
        "VK_INSTANCE_LAYERS": LAYER,
        "VK_LAYER_SETTINGS_PATH": str(settings),
        UNDER_LAYER: "1",
    }
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def messages(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stdout.splitlines() if "msgNum" in line or "Validation" in line]


DRIVER = [f"tests/conformance/{name}.py" for name in ("test_conformance", "test_vulkan", "test_vulkan_runs")]
MODELS = ["tests/codegen/test_differential.py", "tests/codegen/test_identities.py", "tests/golden/test_demo.py"]


@pytest.mark.parametrize(("files", "at_least"), [(DRIVER, 150), (MODELS, 85)], ids=["driver", "models"])
def test_silence(tmp_path, files, at_least):
    run = watched(tmp_path, "-m", "pytest", "-q", "-s", "-n0", "-p", "no:cacheprovider", "-k", "vulkan", *files)
    assert messages(run) == []
    assert run.returncode == 0, run.stdout[-10000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > at_least


PROGRAM = (
    "import sys; from mossnet_tg.engine import CompiledModel\n"
    "with CompiledModel(sys.argv[1], allow_native=True) as model, model.session() as session: session.decode(0)"
)
BUFFERS = {"x": (Region.STATE, 0, ROW), "y": (Region.STATE, ROW, ROW), "z": (Region.STATE, 2 * ROW, ROW)}
PUSH = "layout(push_constant) uniform Push { float value; };"


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        pytest.param(lambda: {"k": toy("reverse")}, "", id="nothing wrong"),
        # A module with push constants, of which the driver makes none.
        pytest.param(
            lambda: {
                "k": Module(kernel(64, [buffer(0, "x"), buffer(1, "y"), PUSH], "y[0] = x[0] + value;"), (READ, WRITTEN))
            },
            "VUID-VkComputePipelineCreateInfo-layout-",
            id="push constants",
        ),
        # A plan that hides what a kernel writes, so that there is no barrier.
        pytest.param(
            lambda: {"k": toy("reverse", params=(READ, READ))}, "SYNC-HAZARD-READ-AFTER-WRITE", id="no barrier"
        ),
    ],
)
def test_mistakes_are_heard(tmp_path, codes, message):
    plan = Plan(codes(), BUFFERS, [("k", "x", "y"), ("k", "y", "z")])
    run = watched(tmp_path, "-c", PROGRAM, str(plan.write(tmp_path / "k.moss")))
    assert run.returncode == 0, run.stderr
    assert message in run.stdout
    assert bool(message) == bool(messages(run))
