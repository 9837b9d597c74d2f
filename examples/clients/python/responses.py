"""The Responses API: an answer that the server remembers, one that follows on it as it comes, and both erased."""

from openai import OpenAI

client = OpenAI()
model = client.models.list().data[0].id

first = client.responses.create(model=model, instructions="Answer briefly.", input="My name is Ada")
print(f"{first.output_text} ({first.usage.total_tokens} tokens)")

second = None
for event in client.responses.create(model=model, previous_response_id=first.id, input="What is my name?", stream=True):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
    elif event.type == "response.failed":
        raise SystemExit(event.response.error.message)  # the answer broke off: what was printed is not all of it
    elif event.type in ("response.completed", "response.incomplete"):
        second = event.response
print(f" ({second.usage.total_tokens} tokens)")

print(len(client.responses.input_items.list(second.id).data), "items led to it")
for response in (first, second):
    client.responses.delete(response.id)
