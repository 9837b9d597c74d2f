"""Embeddings: which text is nearest to a question."""

import os

from openai import OpenAI

client = OpenAI()
# Where the service serves models that chat too, say which one embeds.
model = os.environ.get("EMBEDDING_MODEL") or client.models.list().data[0].id

texts = ["Paris is the capital of France", "A cat sleeps sixteen hours a day", "Rust has no garbage collector"]
answer = client.embeddings.create(model=model, input=["How many hours a day does a cat sleep?", *texts])
question, *vectors = [item.embedding for item in answer.data]

# Vectors have length 1: the larger the product, the nearer the texts.
nearness = [sum(a * b for a, b in zip(question, vector)) for vector in vectors]
print(texts[nearness.index(max(nearness))])
print(f"{len(question)} dimensions, {answer.usage.total_tokens} tokens")
