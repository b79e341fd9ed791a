# SPDX-License-Identifier: Apache-2.0
"""A back end that does what none does: it gets a memory file over a socket, and maps it as each
line on standard input says, "shared|private OFFSET LENGTH" or "read OFFSET" in the first mapping.
"""
import mmap
import os
import socket
import sys


def main():
    ends = socket.socketpair()
    with open(sys.argv[1], "r+b", buffering=0) as file:
        socket.send_fds(ends[0], [b"x"], [file.fileno()])
    _, fds, _, _ = socket.recv_fds(ends[1], 1, 1)
    mappings = []
    for line in sys.stdin:
        kind, *numbers = line.split()
        try:
            if kind == "read":
                answer = mappings[0][int(numbers[0]):int(numbers[0]) + 16].hex()
            elif kind == "unmap":
                mappings.pop(int(numbers[0])).close()
                answer = "unmapped"
            else:
                offset, length = map(int, numbers)
                flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
                mappings.append(mmap.mmap(fds[0], length, flags=flags, offset=offset))
                answer = "mapped"
        except OSError as e:
            answer = os.strerror(e.errno)
        print(answer, flush=True)


main()
