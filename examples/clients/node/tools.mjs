// A function that the model may call, and its result.
import OpenAI from "openai";

const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The temperature in a city, in degrees Celsius",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

function weather({ city }) {
  console.log(`The model asks for the weather in ${city}`);
  return "-3";
}

const client = new OpenAI();
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "How cold is it in Oslo?" }];
for (;;) {
  const { message } = (await client.chat.completions.create({ model, messages, tools })).choices[0];
  messages.push(message);
  if (!message.tool_calls?.length) {
    console.log(message.content);
    break;
  }
  for (const call of message.tool_calls) {
    const content = weather(JSON.parse(call.function.arguments));
    messages.push({ role: "tool", tool_call_id: call.id, content });
  }
}
