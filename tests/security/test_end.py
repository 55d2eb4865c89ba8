"""SIGTERM ends a server within its time, whatever still runs in it."""

import signal
import subprocess
import sys

# A thread waits for a locked database, and a client for its answer. The command line has a handler
# of its own for SIGTERM, which uvicorn passes on at its end; here it is ignored.
PROGRAM = """
import asyncio, signal, threading, time
import uvicorn
from autotune.service.announced import Announced

async def app(scope, receive, send):
    if scope["type"] == "http":
        await asyncio.sleep(600)

signal.signal(signal.SIGTERM, signal.SIG_IGN)
config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1)
server = Announced(config, on_end=lambda: print("told", flush=True), end_s=3)
threading.Thread(target=time.sleep, args=(600,)).start()
server.run()
print("served", flush=True)
"""


def test_a_server_ends_in_time():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert "serving on" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == -signal.SIGALRM
        assert process.stdout.read() == "told\nserved\n"
