// What can go wrong, what the SDK tries again by itself, and what to do about the rest.
import OpenAI from "openai";

// The SDK tries 408, 429 and 5xx again, after the time that the server names (retry-after-ms). It does not where the server
// says that it is of no use (x-should-retry: false): a spent budget, a key that the backend refuses.
const client = new OpenAI({ maxRetries: 4, timeout: 120_000 });
const model = (await client.models.list()).data[0].id;

async function ask(question, more = {}) {
  let said = "";
  try {
    const messages = [{ role: "user", content: question }];
    const stream = await client.chat.completions.create({ model, messages, stream: true, ...more });
    for await (const chunk of stream) said += chunk.choices[0]?.delta?.content ?? "";
    return said;
  } catch (error) {
    if (error instanceof OpenAI.BadRequestError) return `our mistake: ${error.param}: ${error.message}`;
    if (error instanceof OpenAI.AuthenticationError) return "the key is missing or wrong";
    if (error instanceof OpenAI.RateLimitError) {
      if (error.code === "insufficient_quota") return "the budget is used up";
      return `too much at once, try again in ${error.headers.get("retry-after")} s`;
    }
    if (error instanceof OpenAI.APIConnectionTimeoutError) return "no answer in time";
    if (error instanceof OpenAI.APIConnectionError) return "the service cannot be reached";
    if (error instanceof OpenAI.InternalServerError) {
      return `the service or its backend has a problem (${error.code}); request ${error.requestID}`;
    }
    // A stream that breaks never ends as if it were whole.
    if (error instanceof OpenAI.APIError) return `the answer broke off after '${said}': ${error.message}`;
    throw error;
  }
}

console.log(await ask("Hello"));
console.log(await ask("Hello", { temperature: 3, n: 0 }));
