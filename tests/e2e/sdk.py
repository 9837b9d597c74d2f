"""Asks a chat server with the unchanged OpenAI SDK. In: base URL and model. Out: exit code 0, or what was wrong."""

import sys

from openai import NotFoundError, OpenAI

base_url, model = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key="unused", timeout=20, max_retries=0)
question = [{"role": "user", "content": "Does the SDK work unchanged?"}]

assert [m.id for m in client.models.list()] == [model]

answer = client.chat.completions.create(model=model, messages=question)
assert answer.choices[0].message.content == question[0]["content"], answer
assert answer.choices[0].finish_reason == "stop", answer
assert answer.usage.total_tokens > 0, answer

stream = client.chat.completions.create(model=model, messages=question, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == question[0]["content"], text
assert chunks[-1].usage.total_tokens == answer.usage.total_tokens, chunks[-1]

try:
    client.chat.completions.create(model="no-such-model", messages=question)
    sys.exit("a model that is not served was answered")
except NotFoundError as error:
    assert error.code == "model_not_found", error
