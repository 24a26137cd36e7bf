"""What is imported last by the process that workers are forked from: from now on it and they hear Ctrl-C; see `server`.

What was pressed while it imported is dropped: its parent has heard that as well.
"""

import signal

before = signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
signal.signal(signal.SIGINT, before)
