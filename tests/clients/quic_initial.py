"""Sends the Initial packets of a QUIC connection (aioquic) to a port where nobody answers."""

import argparse
import socket
import time

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--port", type=int, required=True)
PARSER.add_argument("--server-name", required=True)
PARSER.add_argument("--version", choices=["1", "2"], default="1")
CHOSEN = PARSER.parse_args()
VERSION = {"1": QuicProtocolVersion.VERSION_1, "2": QuicProtocolVersion.VERSION_2}[CHOSEN.version]

connection = QuicConnection(configuration=QuicConfiguration(
    is_client=True, server_name=CHOSEN.server_name, alpn_protocols=["h3"],
    original_version=VERSION, supported_versions=[VERSION],
))
connection.connect(("127.0.0.1", CHOSEN.port), now=time.time())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for datagram, _ in connection.datagrams_to_send(now=time.time()):
        sender.sendto(datagram, ("127.0.0.1", CHOSEN.port))
    time.sleep(1)
