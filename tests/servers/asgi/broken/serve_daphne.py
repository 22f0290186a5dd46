"""daphne on the inherited socket, losing nothing when it stops: `python serve_daphne.py`.

`daphne --fd 3 app:app` serves as well, but on TERM it closes connections that it has accepted and not yet read.
"""
import signal

import daphne.server  # first of Twisted's users: it chooses the event loop
from twisted.internet import reactor
from twisted.web import http

from app import app
from daphne.endpoints import build_endpoint_description_strings


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
    server = Server(app, build_endpoint_description_strings(file_descriptor=3), signal_handlers=False)
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(server.drain))
    server.run()
