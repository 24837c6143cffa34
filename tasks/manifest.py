"""Any images that a table lists: `path,label` and perhaps `split,group`.

CSV or Parquet, as spreadsheets, databases and labelling tools export it.
"""

from framework import SOURCES, TASKS, Task


@TASKS.register()
def manifest(validation: float = 0.2, test: float = 0.0, seed: int = 0) -> Task:
    """The table that `Manifest.path` names, cut where not yet split."""
    return Task(
        source=SOURCES["Manifest"],
        validation=validation,
        test=test,
        seed=seed,
    )
