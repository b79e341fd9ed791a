# SPDX-License-Identifier: Apache-2.0
"""One thread of a process that stands still while the others go on, as a thread that waits
for a disk or a lock would: SIGSTOP stops them all, ptrace(2) one."""
import ctypes
import os
import pathlib

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000  # __WALL: wait for threads as well

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_ulong, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def threads(pid, name):
    """The threads of a process that have this name, by id."""
    return sorted(int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                  if (task / "comm").read_text().strip() == name)


class StoppedThread:
    """The only thread of this name: it stands from here to release(), or to the end of the
    with. Only the thread that stopped it can use this."""

    def __init__(self, pid, name):
        found = threads(pid, name)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} threads of {pid} are called {name}, expected 1")
        self.tid = found[0]
        self._ptrace(PTRACE_SEIZE)
        self._ptrace(PTRACE_INTERRUPT)
        os.waitpid(self.tid, WALL)  # it stands

    def _ptrace(self, request):
        if libc.ptrace(request, self.tid, None, None) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of thread {self.tid}")

    def killed(self):
        """Whether its process has been killed. Nobody else hears of that before this does."""
        if self.tid and os.waitpid(self.tid, WALL | os.WNOHANG)[0]:
            self.tid = 0
        return not self.tid

    def release(self):
        if not self.tid:
            return
        try:
            self._ptrace(PTRACE_DETACH)
        except ProcessLookupError:
            pass  # it was killed

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.release()
