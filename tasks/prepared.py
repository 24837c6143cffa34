"""Any directory that `prepare`, or TFDS, has written.

`prepared/dataset_info.json` and the files beside it, TFRecord or ArrayRecord.
"""

from framework import SOURCES, TASKS, Task
from framework.ranges import Part, Seed


@TASKS.register()
def prepared(validation: Part = 0.2, test: Part = 0.0, seed: Seed = 0) -> Task:
    """What `Prepared.directory` holds, cut where not yet split."""
    return Task(
        source=SOURCES["Prepared"],
        validation=validation,
        test=test,
        seed=seed,
    )
