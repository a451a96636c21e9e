"""The garbage collector of a process that is ready, and will run for long."""

from __future__ import annotations

import gc


def settle() -> None:
    """Leave out of its rounds what is there for good, and make them rarer.

    Else each full round looks at all that was imported, and holds everybody up for a tenth of a second; and calls that
    take seconds outlive the usual thresholds by far, so that most rounds find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
