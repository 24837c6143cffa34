"""Any directory of class folders: `photos/cat/1.jpg`, `photos/dog/2.png`.

What Keras's `flow_from_directory` reads. Folders called train, validation and
test in the root, each with the class folders, are taken as the splits.
"""

from framework import SOURCES, TASKS, Task


@TASKS.register()
def image_folder(
    validation: float = 0.2, test: float = 0.0, seed: int = 0
) -> Task:
    """The directory that `ImageFolder.root` names, cut where not yet split."""
    return Task(
        source=SOURCES["ImageFolder"],
        validation=validation,
        test=test,
        seed=seed,
    )
