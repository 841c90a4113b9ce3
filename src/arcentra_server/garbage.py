"""How often Python looks for cyclic garbage (docs/adr/0019): seldom, as almost nothing here is in a cycle.

What the server makes for a report or a message ends with its last reference. With Python's defaults the collector looks
through the young objects after every 700; much of a busy moment survives that, and so brings about collections of all that
there is, which stop everything for 50 ms for each 100,000 objects, of which the modules alone have more.

What counts is the number of objects, however large they are: what callers send must not get into a cycle. The guard of the
calls sees to it for those that fail (rpc/interceptors/guard.py).
"""

from __future__ import annotations

import gc

YOUNG = 50_000  # objects more than there were, until the young ones are looked through
OLDER = 20  # times that, until those are that survived it once; and as often again, until all are


def settle() -> None:
    """Leave out what is there now, modules and all that lasts as long as the process, and look for garbage seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLDER)
