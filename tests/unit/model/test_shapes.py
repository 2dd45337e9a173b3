"""The shape annotations of model/ are true: they are checked while a toy detector runs and trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

# In a process of its own: the hook rewrites modules as they are first imported.
PROGRAM = """
import tests.unit.model.checker  # the hook looks it up, but imports only the first part of the name
from jaxtyping import TypeCheckError, install_import_hook

with install_import_hook("model", "tests.unit.model.checker.checked"):
    from dataclasses import replace
    import torch
    from model import boxes
    from model.config import HeadConfig, MaskConfig, PoolingConfig, SemanticConfig
    from model.masks import InstanceMasks
    from tests.unit.model.toys import detect, full_size, toy_detector, toy_images, toy_targets

try:
    boxes.area(torch.zeros(3, 5))
except TypeCheckError:
    pass
else:
    raise SystemExit("the hook checks nothing")

shared = HeadConfig(kind="shared", stages=1, width=16)
specific = HeadConfig(kind="shared", stages=1, width=16, class_specific_first=True)
images, targets = toy_images(2), toy_targets()
bitmaps = InstanceMasks(torch.ones(28 * 32 + 40 * 40, dtype=torch.uint8), targets[0].boxes.long())
targets[0] = replace(targets[0], masks=bitmaps)
targets = [replace(target, semantic=torch.ones(64, 96, dtype=torch.uint8)) for target in targets]
mask = MaskConfig(convs=1, channels=8, pooling=PoolingConfig(output_size=4))
htc = {
    "head": HeadConfig(kind="htc", width=16, share_trunk=True),
    "mask": replace(mask, train_boxes="box", flow=True),
    "semantic": SemanticConfig(classes=2, convs=1, channels=8),
}
tsd = HeadConfig(kind="tsd", stages=1, width=16, offset_width=16)
variants = (
    {},
    {"head": shared},
    {"head": specific, "localization": None},
    {"head": shared, "mask": mask},
    htc,
    {"head": tsd},
)
for changes in variants:
    toy = toy_detector(spread=False, **changes)
    detect(toy, images)
    if toy.localization is not None:
        toy.rescore(images, full_size(images), torch.zeros(2, 3, 4), torch.tensor([3, 0]))
    sum(toy.train().losses(images, full_size(images), targets).values()).backward()
print("checked")
"""


def test_shapes_are_what_the_annotations_say() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "checked"
