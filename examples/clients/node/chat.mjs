// OpenAI's dialect: one answer, then one as it comes, with its usage in the last chunk.
import OpenAI from "openai";

const client = new OpenAI(); // OPENAI_BASE_URL and OPENAI_API_KEY
const model = (await client.models.list()).data[0].id;

const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content: "Say hello" }] });
console.log(answer.choices[0].message.content);

const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Count to three" }],
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  if (chunk.usage) console.log(`\n${chunk.usage.total_tokens} tokens`);
}
