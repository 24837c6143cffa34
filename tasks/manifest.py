"""Any images that a table lists: `path,label` and perhaps `split,group`.

CSV or Parquet, as spreadsheets, databases and labelling tools export it.
"""

from framework import SOURCES, TASKS, Task
from framework.ranges import Part, Seed


@TASKS.register()
def manifest(validation: Part = 0.2, test: Part = 0.0, seed: Seed = 0) -> Task:
    """The table that `Manifest.path` names, cut where not yet split."""
    return Task(
        source=SOURCES["Manifest"],
        validation=validation,
        test=test,
        seed=seed,
    )
