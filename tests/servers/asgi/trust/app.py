"""An ASGI application that boots, and then is what the file `behaviour` of its release says.

`sick`: its health is 500. `wakes`: 503, until the test has opened the gate "awake". `hangs`: no answer, until it has
opened the gate "hang". `dies`: all is well in its rehearsal, and in slot 1 it ends itself behind the gate "die".
"""
import asyncio
import os
import signal
import socket
import threading

RELEASE = os.path.basename(os.environ["RELEASE_DIR"])
SLOT, PHASE = os.environ["WORKER_INDEX"], os.environ["WORKER_PHASE"]
with open("behaviour") as file:
    BEHAVIOUR = file.read().strip()
awake = threading.Event()


def passed(gate):
    """Waits at a gate of the test; false when the test is over."""
    with socket.socket(socket.AF_UNIX) as test:
        test.connect("../../gates.sock")
        test.sendall(f"gate {gate} {os.getpid()} {SLOT} {PHASE} {RELEASE}\n".encode())
        return test.recv(1) != b""


def wake():
    if passed("awake"):
        awake.set()


def die():
    if passed("die"):
        # The first process, whichever server this is.
        os.kill(os.getpgrp(), signal.SIGTERM)


if BEHAVIOUR == "wakes":
    threading.Thread(target=wake, daemon=True).start()
if BEHAVIOUR == "dies" and SLOT == "1":
    threading.Thread(target=die, daemon=True).start()


async def health():
    """The status, and what is said of it."""
    if BEHAVIOUR == "sick":
        return 500, "no database"
    if BEHAVIOUR == "wakes" and not awake.is_set():
        print("health: still waking up", flush=True)
        return 503, "still waking up"
    if BEHAVIOUR == "hangs":
        await asyncio.to_thread(passed, "hang")
    return 200, "well"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    status, body = 200, f"release={RELEASE} pid={os.getpid()}"
    if scope["path"] == "/health":
        status, body = await health()
    body = f"{body}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
