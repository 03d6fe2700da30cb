"""Sends requests whose bodies lie in memory that nobody ever brings (userfaultfd(2)), each in a process of its own: who reads them waits."""

import argparse
import ctypes
import mmap
import os
import socket
import struct
import time
import urllib.parse

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", required=True)
PARSER.add_argument("--file", required=True, help="gets a line for each process that is about to send")
PARSER.add_argument("--processes", type=int, default=8)
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
LIBC = ctypes.CDLL(None, use_errno=True)
USERFAULTFD, API, REGISTER, MISSING = 323, 0xC018AA3F, 0xC020AA00, 1


def nowhere(size):
    """Pages that are brought by this process, which does not."""
    pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    faults = LIBC.syscall(USERFAULTFD, 0)
    assert faults >= 0, os.strerror(ctypes.get_errno())
    for request, words in ((API, (0xAA, 0, 0)), (REGISTER, (address, size, MISSING, 0))):
        argument = (ctypes.c_uint64 * len(words))(*words)
        assert LIBC.ioctl(faults, ctypes.c_ulong(request), argument) == 0, os.strerror(ctypes.get_errno())
    return pages, address


def main():
    size = 16 * mmap.PAGESIZE
    _pages, address = nowhere(size)
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {URL.netloc}\r\nx-test-client: {CHOSEN.client}\r\n"
            f"content-type: application/json\r\ncontent-length: {size}\r\n\r\n").encode()
    own = ctypes.create_string_buffer(head, len(head))
    vector = ctypes.create_string_buffer(struct.pack("=QQQQ", ctypes.addressof(own), len(head), address, size), 32)
    with socket.create_connection((URL.hostname, URL.port), timeout=20) as stream:
        with open(CHOSEN.file, "a", encoding="ascii") as file:
            print(os.getpid(), file=file)
        sent = LIBC.writev(stream.fileno(), vector, 2)
        print("sent", sent, flush=True)
        time.sleep(20)


for _ in range(CHOSEN.processes):
    if os.fork() == 0:
        main()
        os._exit(0)
for _ in range(CHOSEN.processes):
    os.wait()
