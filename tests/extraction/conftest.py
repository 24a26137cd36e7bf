"""What processes are forked from imports what workers and whole commands need, whichever of them a test starts first.

There is one such process in a run of the tests. Without this, commands that start after a worker each import torchvision and more.
"""

from fault_runs import PRELOADED

from vertebra.extraction.engines import server

server.PRELOADED[:0] = PRELOADED
