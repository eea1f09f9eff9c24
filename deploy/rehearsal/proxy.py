"""A TCP proxy in front of PostgreSQL that can be broken."""

import socket
import threading
import time

PASS, SWALLOW, REFUSE = "pass", "swallow", "refuse"


class Proxy:
    """Listens on loopback; `port` leads to the port `to`."""

    def __init__(self, to):
        self.to, self.mode, self.delay = to, PASS, 0.0
        self.pairs = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Cuts every connection."""
        for pair in self.pairs:
            _cut(*pair)

    def refuse(self):
        """Cuts every connection, and new ones as soon as they are made."""
        self.mode = REFUSE
        self.cut()

    def heal(self):
        """Forwards everything again."""
        self.mode = PASS

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            if self.mode == REFUSE:
                _cut(client)
                continue
            server = socket.create_connection(("127.0.0.1", self.to))
            self.pairs.append((client, server))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source, target):
        try:
            while data := source.recv(65536):
                while self.mode == SWALLOW:
                    time.sleep(0.05)
                if self.delay:
                    time.sleep(self.delay)
                target.sendall(data)
        except OSError:
            pass
        _cut(source, target)


def _cut(*sockets):
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
