"""A WSGI application that boots, and then is what the file `behaviour` of its release says.

`sick`: its health is 500. `wakes`: 503, until the test has opened the gate "awake". `hangs`: no answer, until it has
opened the gate "hang". `dies`: all is well in its rehearsal, and in slot 1 it ends itself behind the gate "die".
"""
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
        # The first process of all, and with it everything: a worker alone would be replaced by gunicorn.
        os.kill(os.getpgrp(), signal.SIGTERM)


if BEHAVIOUR == "wakes":
    threading.Thread(target=wake, daemon=True).start()
if BEHAVIOUR == "dies" and SLOT == "1":
    threading.Thread(target=die, daemon=True).start()


def health():
    """The status, and what is said of it."""
    if BEHAVIOUR == "sick":
        return "500 Internal Server Error", "no database"
    if BEHAVIOUR == "wakes" and not awake.is_set():
        print("health: still waking up", flush=True)
        return "503 Service Unavailable", "still waking up"
    if BEHAVIOUR == "hangs":
        passed("hang")
    return "200 OK", "well"


def app(environ, start_response):
    status, body = "200 OK", f"release={RELEASE} pid={os.getpid()}"
    if environ["PATH_INFO"] == "/health":
        status, body = health()
    body = f"{body}\n".encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
