"""In a pod, with its ServiceAccount token instead of a key. See keyless.yaml for the pod's part."""

import os
from pathlib import Path

from openai import OpenAI

TOKEN = Path(os.environ.get("TOKEN_FILE", "/var/run/secrets/chatservice/token"))

# Called for each request: the kubelet replaces the token before it expires.
client = OpenAI(api_key=lambda: TOKEN.read_text().strip())

model = client.models.list().data[0].id
answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Who am I?"}])
print(answer.choices[0].message.content)
