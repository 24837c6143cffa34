"""Turns a folder of pictures into a finished run, in the least time."""

import framework

# Replaces what is dear in gin/folder.gin.
BINDINGS = (
    "classifier.backbone = @tiny_cnn",
    "classifier.image_size = 32",
    "classifier.freeze = 'none'",
    "train.feature_views = None",
    "train.batch_size = 8",
    "train.report_page = False",
)


def run(pictures, workdir, *bindings) -> framework.Result:
    """Trains on `pictures`, a folder with one folder a class."""
    return framework.run(
        "gin/folder.gin",
        [f"ImageFolder.root = {str(pictures)!r}", *BINDINGS, *bindings],
        workdir=str(workdir),
    )
