"""uvicorn on the inherited socket, losing nothing when it stops: `python serve_uvicorn.py`.

`uvicorn --fd 3 app:app` serves as well, with two faults: on TERM it closes connections that it has accepted and not
yet read, and it takes the socket for a Unix one, so that answers on kept connections wait 40 ms for Nagle's algorithm.
"""
import asyncio
import socket

import uvicorn


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        # Accept nothing more, and say on every answer that the connection ends with it. What was accepted is read
        # meanwhile; only then uvicorn's own shutdown may close what is idle.
        for server in self.servers:
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        for _ in range(25):
            if not self.server_state.connections:
                break
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


if __name__ == "__main__":
    Server(uvicorn.Config("app:app", access_log=False)).run(sockets=[socket.socket(fileno=3)])
