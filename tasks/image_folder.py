"""Any directory of class folders: `photos/cat/1.jpg`, `photos/dog/2.png`.

What Keras's `flow_from_directory` reads. Folders called train, validation and
test in the root, each with the class folders, are taken as the splits.
"""

from framework import SOURCES, TASKS, Task
from framework.ranges import Part, Seed


@TASKS.register()
def image_folder(
    validation: Part = 0.2, test: Part = 0.0, seed: Seed = 0
) -> Task:
    """The directory that `ImageFolder.root` names, cut where not yet split."""
    return Task(
        source=SOURCES["ImageFolder"],
        validation=validation,
        test=test,
        seed=seed,
    )
