"""hypercorn on the inherited socket, losing nothing when it stops: `python serve_hypercorn.py`.

`hypercorn -w 0 --bind fd://3 app:app` serves as well, but on TERM it closes connections that it has accepted and not
yet read.
"""
import asyncio
import signal

from app import app
from hypercorn.asyncio import serve
from hypercorn.config import Config


async def main():
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    config = Config()
    config.bind = ["fd://3"]

    async def stopped():
        await stop.wait()
        # Accept nothing more, and read what was accepted; only then hypercorn may close what is idle.
        loop.remove_reader(3)
        await asyncio.sleep(0.5)

    async def closing(scope, receive, send):
        async def last(message):
            if stop.is_set() and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await app(scope, receive, last if scope["type"] == "http" else send)

    await serve(closing, config, shutdown_trigger=stopped)


asyncio.run(main())
