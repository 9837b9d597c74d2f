// The Responses API: an answer that the server remembers, one that follows on it as it comes, and both erased.
import OpenAI from "openai";

const client = new OpenAI();
const model = (await client.models.list()).data[0].id;

const first = await client.responses.create({ model, instructions: "Answer briefly.", input: "My name is Ada" });
console.log(`${first.output_text} (${first.usage.total_tokens} tokens)`);

const stream = await client.responses.create({
  model,
  previous_response_id: first.id,
  input: "What is my name?",
  stream: true,
});
let second;
for await (const event of stream) {
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
  if (event.type === "response.failed") throw new Error(event.response.error.message); // what was printed is not all of it
  if (event.type === "response.completed" || event.type === "response.incomplete") second = event.response;
}
console.log(` (${second.usage.total_tokens} tokens)`);

const items = await client.responses.inputItems.list(second.id);
console.log(`${items.data.length} items led to it`);
for (const response of [first, second]) await client.responses.delete(response.id);
