"""One call, and then an end without goodbye: the connection is open when the process is gone. The arguments are those of `plain_tls.py`."""

import io
import os
import sys

import plain_tls

sys.stdin = io.StringIO("once\n")
plain_tls.main(leave=lambda: os._exit(0))
