"""A process outside of every task: it does what is asked of it on a Unix socket, and has a connection of its own."""

import array
import json
import os
import socket

import agent


def serve(connection):
    text, control = b"", []
    while True:
        more, with_it, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 64))
        if not more:
            return
        text, control = text + more, control + with_it
        try:
            asked = json.loads(text)
            break
        except ValueError:
            pass
    if "run" in asked:
        agent.spend(calls=2)
        connection.send(b"2 calls were made")
        return
    # The last one is the connection, whatever goes before it.
    descriptors = [descriptor for _, _, data in control for descriptor in array.array("i", data)]
    for descriptor in descriptors[:-1]:
        os.close(descriptor)
    stream = socket.socket(fileno=descriptors[-1])
    stream.settimeout(2)
    done = 0
    try:
        for _ in range(asked["times"]):
            stream.sendall(asked["hand"].encode())
            agent.answer(stream)
            done += 1
    except OSError as error:
        connection.send(f"{done} answers, then {error!r}".encode())
    else:
        connection.send(f"{done} answers".encode())


def main():
    own = socket.create_connection(agent.address("PLAIN"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ["OUTSIDE"])
    os.chmod(os.environ["OUTSIDE"], 0o777)
    listener.listen()
    with open(os.environ["VICTIM_FD"] + ".new", "w", encoding="ascii") as file:
        file.write(str(own.fileno()))
    os.rename(os.environ["VICTIM_FD"] + ".new", os.environ["VICTIM_FD"])
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                serve(connection)
            except OSError:
                pass


if __name__ == "__main__":
    main()
