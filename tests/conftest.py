"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Without a GPU the Triton kernels are tested in its interpreter. This is read when Triton is first imported, which
# importing torch may do, so torch cannot be asked. The tools never take Triton on a CPU by themselves.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def real_nuscenes() -> Path:
    """Folder of a small real nuScenes subset; tests that need it are skipped where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes-real-subset"
    root = Path(os.environ.get("FUSIONPERC_REAL_NUSCENES", default))
    if not (root / "v1.0-mini" / "sample.json").is_file():
        pytest.skip("no real nuScenes subset here; name one in FUSIONPERC_REAL_NUSCENES")
    return root


@pytest.fixture(scope="session")
def tiny_drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small simulated set: train scene-0061 and scene-0553, validation scene-0103; do not write into it."""
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    from fusionperc.simulation.drives import generate
    from fusionperc.simulation.sets import plan_drives

    root = tmp_path_factory.mktemp("tiny_drives")
    drives = plan_drives("demo", 0, num_train=2, num_val=1, duration_s=2.0, image_scale=0.22)
    generate(drives, root)
    return root
