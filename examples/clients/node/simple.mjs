// The simple dialect, with `fetch`: a conversation that the server remembers, the second answer as it comes.
const api = `${process.env.OPENAI_BASE_URL.replace(/\/v1$/, "")}/api/v1`;

async function call(method, path, body) {
  const response = await fetch(api + path, {
    method,
    headers: { "content-type": "application/json", authorization: `Bearer ${process.env.OPENAI_API_KEY ?? "unused"}` },
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${response.status}: ${(await response.json()).message}`);
  return response;
}

const answer = await (await call("POST", "/chat", { message: "My name is Ada" })).json();
console.log(`${answer.message} (${answer.tokens_used} tokens)`);
const conversation_id = answer.conversation_id;

const response = await call("POST", "/chat/stream", { message: "What is my name?", conversation_id });
let rest = "";
for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + piece).split("\n");
  rest = lines.pop();
  for (const line of lines.filter((line) => line.startsWith("data: "))) {
    const event = JSON.parse(line.slice("data: ".length));
    if (event.error) throw new Error(event.message); // the answer broke off: what was printed is not all of it
    process.stdout.write(event.delta);
  }
}
console.log();

const stored = await (await call("GET", `/conversations/${conversation_id}`)).json();
console.log(`${stored.messages.length} messages, ${stored.total_tokens} tokens`);
await call("DELETE", `/conversations/${conversation_id}`);
