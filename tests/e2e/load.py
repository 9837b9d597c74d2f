"""Asks without pause until it is told to stop. In: a file that ends it, how many ask each Service at a time, the Services' URLs. Out: a
line with the number of requests; exit code 1 and what went wrong if one of them failed."""

import json
import os
import sys
import threading
import urllib.request

stop, threads, services = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
lock = threading.Lock()
asked, failures = 0, []


def ask(base, number):
    global asked
    while not os.path.exists(stop) and len(failures) < 10:
        text = f"Question of {number}"
        body = json.dumps({"message": text}).encode()
        # A connection of its own for each request, as from many clients.
        request = urllib.request.Request(f"{base}/api/v1/chat", body, {"content-type": "application/json", "connection": "close"})
        failure = None
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                answer = json.load(response)
            if answer["message"] != text:
                failure = f"not the echo: {answer}"
        except Exception as error:
            failure = repr(error)
        with lock:
            asked += 1
            if failure:
                failures.append(f"{base}: {failure}")


workers = [threading.Thread(target=ask, args=(base, number)) for base in services for number in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(f"{asked} requests, {len(failures)} failed")
sys.exit("\n".join(failures) if failures else 0)
