"""Pages that name their release: RELEASE_DIR is read once, while booting."""
import os
import socket
import threading

from django.http import HttpResponse

from shop.models import Item

RELEASE = os.path.basename(os.environ["RELEASE_DIR"])
lock = threading.Lock()
inside = 0


def home(request):
    return HttpResponse(f"release={RELEASE} pid={os.getpid()}\n", content_type="text/plain")


def health(request):
    """Well when the database answers and has this release's tables."""
    return HttpResponse(f"{Item.objects.count()} items\n", content_type="text/plain")


def meet(request):
    """Waits at a gate of the test, and says how many of this process' threads stood there with it."""
    global inside
    with lock:
        inside += 1
        seen = inside
    with socket.socket(socket.AF_UNIX) as test:
        test.connect("../../gates.sock")
        test.sendall(f"gate meet {os.getpid()} {os.environ['WORKER_INDEX']} {os.environ['WORKER_PHASE']} {RELEASE}\n".encode())
        test.recv(1)
    with lock:
        inside -= 1
    return HttpResponse(f"inside={seen}\n", content_type="text/plain")


def concurrency(request):
    return HttpResponse(f"WEB_CONCURRENCY={os.environ.get('WEB_CONCURRENCY')}\n", content_type="text/plain")
