"""Any directory that `prepare`, or TFDS, has written.

`prepared/dataset_info.json` and the files beside it, TFRecord or ArrayRecord.
"""

from framework import SOURCES, TASKS, Task


@TASKS.register()
def prepared(validation: float = 0.2, test: float = 0.0, seed: int = 0) -> Task:
    """What `Prepared.directory` holds, cut where not yet split."""
    return Task(
        source=SOURCES["Prepared"],
        validation=validation,
        test=test,
        seed=seed,
    )
