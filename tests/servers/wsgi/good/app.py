"""A WSGI application that names its release: RELEASE_DIR is read once, while booting."""
import os
import time

RELEASE = os.path.basename(os.environ["RELEASE_DIR"])


def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.05)
    body = f"release={RELEASE} pid={os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
