// The chat of this page as code. In: base URL, model, whether a key is needed. Out: source text for each language.

/** Source text by language. */
export function snippets({ base, model, hasKey }) {
  const key = hasKey ? "YOUR_KEY" : "unused";
  return {
    python: `from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${JSON.stringify(key)})

stream = client.chat.completions.create(
    model=${JSON.stringify(model)},
    messages=[{"role": "user", "content": "Hello"}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
`,
    node: `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${JSON.stringify(key)} });

const stream = await client.chat.completions.create({
  model: ${JSON.stringify(model)},
  messages: [{ role: "user", content: "Hello" }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
`,
    curl: `curl -N ${base}/chat/completions \\
  -H 'content-type: application/json' \\${hasKey ? `\n  -H "authorization: Bearer ${key}" \\` : ""}
  -d '{"model": ${JSON.stringify(model)}, "stream": true,
       "messages": [{"role": "user", "content": "Hello"}]}'
`,
  };
}
