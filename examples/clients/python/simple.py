"""The simple dialect, with Python's own library: a conversation that the server remembers, the second answer as it comes."""

import json
import os
from urllib.request import Request, urlopen

API = os.environ["OPENAI_BASE_URL"].removesuffix("/v1") + "/api/v1"
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'unused')}"}


def call(method: str, path: str, body: dict | None = None):
    data = None if body is None else json.dumps(body).encode()
    return urlopen(Request(API + path, data, HEADERS, method=method), timeout=120)


answer = json.load(call("POST", "/chat", {"message": "My name is Ada"}))
print(answer["message"], f"({answer['tokens_used']} tokens)")
conversation = answer["conversation_id"]

for line in call("POST", "/chat/stream", {"message": "What is my name?", "conversation_id": conversation}):
    if line.startswith(b"data: "):
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise SystemExit(event["message"])  # the answer broke off: what was printed is not all of it
        print(event["delta"], end="", flush=True)
print()

stored = json.load(call("GET", f"/conversations/{conversation}"))
print(len(stored["messages"]), "messages,", stored["total_tokens"], "tokens")
call("DELETE", f"/conversations/{conversation}")
