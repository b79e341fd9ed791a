# SPDX-License-Identifier: Apache-2.0
"""The attach protocol (proto/attach.proto) by hand, for what libpostcopy would not send."""
import array
import socket
import struct
import uuid


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    return varint(number << 3 | 2) + varint(len(value)) + value


def head(m):
    """What Attach and Export begin with: version, migration and token."""
    with open(m.token, encoding="ascii") as f:
        token = bytes.fromhex(f.read().strip())
    return field(1, 1) + field(2, uuid.UUID(m.id).bytes) + field(3, token)


def ask(sock, message, fds=()):
    """The text of the answer to this AttachRequest on a connection of its own."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(sock))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        s.sendmsg([struct.pack("<I", len(message)) + message], rights)
        data = b""
        while part := s.recv(65536):
            data += part
            if len(data) > 4 and len(data) - 4 >= struct.unpack("<I", data[:4])[0]:
                break
    return data.decode(errors="replace")
