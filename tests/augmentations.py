"""Every augmentation layer that ships, with arguments that show."""

import keras

from framework.model.augmentation import _KERAS_LAYERS
from framework.registry import AUGMENTATIONS

SIZE = 32
RANGE = {"value_range": (0, 255)}
OURS = [
    "RandomAffine",
    "RandomColor",
    "RandomErase",
    "RandomPolicy",
    "RandomResizedCrop",
]
ARGUMENTS = {
    "RandomAffine": {"flip_mode": "vertical", "rotation_factor": 0.2},
    "RandomColor": {"brightness_factor": 0.5, "contrast_factor": 0.5},
    "RandomPolicy": {"magnitude": 10},
    "keras.CenterCrop": {"height": SIZE, "width": SIZE},
    "keras.RandAugment": RANGE,
    "keras.RandomBrightness": {"factor": 0.5},
    "keras.RandomColorDegeneration": {"factor": 0.5},
    "keras.RandomColorJitter": {**RANGE, "brightness_factor": 0.5},
    "keras.RandomContrast": {"factor": 0.5},
    "keras.RandomCrop": {"height": SIZE, "width": SIZE},
    "keras.RandomHue": {**RANGE, "factor": 0.5},
    "keras.RandomPosterization": {"factor": 4},
    "keras.RandomRotation": {"factor": 0.2},
    "keras.RandomSaturation": {"factor": 0.5},
    "keras.RandomSharpness": {"factor": 0.5},
    "keras.RandomShear": {"x_factor": 0.3},
    "keras.RandomTranslation": {"height_factor": 0.3, "width_factor": 0.3},
    "keras.RandomZoom": {"height_factor": 0.3},
    "keras_cv.AutoContrast": RANGE,
    "keras_cv.Equalization": RANGE,
    "keras_cv.Posterization": {**RANGE, "bits": 3},
    "keras_cv.RandAugment": RANGE,
    "keras_cv.RandomBrightness": {**RANGE, "factor": 0.5},
    "keras_cv.RandomChannelShift": {**RANGE, "factor": 0.5},
    "keras_cv.RandomColorDegeneration": {"factor": 0.5},
    "keras_cv.RandomColorJitter": {
        **RANGE,
        "brightness_factor": 0.5,
        "contrast_factor": 0.5,
        "saturation_factor": 0.5,
        "hue_factor": 0.5,
    },
    "keras_cv.RandomCutout": {"height_factor": 0.5, "width_factor": 0.5},
    "keras_cv.RandomHue": {**RANGE, "factor": 0.5},
    "keras_cv.RandomSaturation": {"factor": 0.5},
    "keras_cv.RandomSharpness": {**RANGE, "factor": 0.5},
    "keras_cv.RandomShear": {"x_factor": 0.3},
}


def make(name):
    arguments = ARGUMENTS.get(name, {})
    if name in ("keras_cv.RandomChoice", "keras_cv.RandomAugmentationPipeline"):
        inner = ("GridMask", "RandomHue", "RandomColorJitter")
        arguments = {"layers": [make(f"keras_cv.{n}") for n in inner]}
        if name == "keras_cv.RandomAugmentationPipeline":
            arguments["augmentations_per_image"] = 2
    return AUGMENTATIONS[name](**arguments)


def keras_layers():
    return [f"keras.{n}" for n in _KERAS_LAYERS if hasattr(keras.layers, n)]
