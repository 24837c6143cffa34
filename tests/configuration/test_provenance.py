"""Each value of a configuration is shown with where it comes from."""

import re

from framework.configuration import Configuration


def shown(*bindings: str, file="gin/smoke.gin", mode="train") -> dict[str, str]:
    text = Configuration(file, bindings).printed(mode)
    found = re.findall(r"^(\S+) = (.*?)\s+# (.*)$", text, re.M)
    assert len(found) == len({key for key, *_ in found})
    return {key: f"{value} # {origin}" for key, value, origin in found}


def test_files_flags_defaults_and_what_was_replaced():
    found = shown(
        "train.epochs = 4", "train.epochs = 3", "softmax_head.dropout = 0.5"
    )
    assert found["train.epochs"] == (
        "3 # --gin_param, in place of 4 (--gin_param), "
        "in place of 20 (gin/smoke.gin:11)"
    )
    assert found["train.batch_size"] == "32 # gin/base.gin:10"
    assert found["train.folds"] == "None # default"
    assert found["softmax_head.dropout"] == "0.5 # --gin_param"
    assert found["keras.RandomFlip.mode"] == "'horizontal' # gin/smoke.gin:16"
    assert found["classifier.backbone"].startswith("@tiny_cnn #")
    # What nothing refers to is not part of it.
    assert not any(key.startswith(("sigmoid_head", "doctor")) for key in found)


def test_scopes_macros_and_what_is_unused():
    found = shown(
        "train.epochs = None",
        "train.phases = @fine_tune()",
        "tune/classifier.augmentation = %none",
        "none = []",
        "keras.SGD.momentum = 0.9  # may be unused",
    )
    assert found["tune/classifier.augmentation"] == "%none # --gin_param"
    assert found["classifier.augmentation"].startswith("[@keras.RandomFlip()]")
    assert found["none"] == "[] # --gin_param"
    assert found["keras.SGD.momentum"] == "0.9 # --gin_param"
    assert "keras.SGD.nesterov" not in found
    macros = ["train.epochs = %many", "many = 3"]
    assert "gin.macro" not in Configuration("gin/smoke.gin", macros).printed()


def test_of_another_mode():
    found = shown("lr_find.updates = 50", mode="lr_find")
    assert found["lr_find.updates"] == "50 # --gin_param"
    assert found["lr_find.phase"] == "1 # default"
    assert found["train.epochs"] == "20 # gin/smoke.gin:11"
