"""daphne on the inherited socket, losing nothing when it stops: `python serve_daphne.py`.

`daphne --fd 3 app:app` serves as well, but on TERM it closes connections that it has accepted and not yet read, and it takes
every socket for an IPv4 one: on a Unix socket it answers nobody.
"""
import signal
import socket

import daphne.server  # first of Twisted's users: it chooses the event loop
from twisted.internet import reactor
from twisted.web import http

from app import app


def last(channel, request, version):
    """Every answer says that the connection ends with it."""
    request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
    return False


class Server(daphne.server.Server):
    def listen_success(self, port):
        self.port = port

    def drain(self):
        # Accept nothing more, and read what was accepted; only then daphne's own end may close what is idle.
        self.port.stopReading()
        http.HTTPChannel.checkPersistence = last
        reactor.callLater(0.5, self.finish)

    def finish(self):
        # Its own end would cancel what still runs.
        apps = [connection.get("application_instance") for connection in self.connections.values()]
        if any(app and not app.done() for app in apps):
            reactor.callLater(0.05, self.finish)
        else:
            reactor.stop()


if __name__ == "__main__":
    inherited = socket.socket(fileno=3)
    domain = inherited.family.name.removeprefix("AF_")
    inherited.detach()
    server = Server(app, [f"systemd:domain={domain}:index=0"], signal_handlers=False)
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(server.drain))
    server.run()
