// One case of the official SDK for Node.js against a server. In: the case, the base URL, what else the case takes. Out:
// exit code 0, or the assertion that did not hold.

import assert from "node:assert/strict";
import OpenAI from "openai";

const MODEL = "gpt-4o-mini";
const QUESTION = [{ role: "user", content: "How is the weather?" }];
const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

const client = (baseURL, options = {}) =>
  new OpenAI({ baseURL, apiKey: "unused", timeout: 60_000, maxRetries: 0, ...options });

const ask = (api, more = {}) => api.chat.completions.create({ model: MODEL, messages: QUESTION, ...more });

/** What `act` rejects with, which must be exactly of this kind. */
async function raised(kind, act) {
  try {
    await act();
  } catch (error) {
    assert.equal(error.constructor, kind, String(error.stack));
    return error;
  }
  return assert.fail(`nothing was raised, not ${kind.name}`);
}

async function all(events) {
  const chunks = [];
  for await (const chunk of events) chunks.push(chunk);
  return chunks;
}

function whole(chunks) {
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  const reasons = chunks.filter((chunk) => chunk.choices.length).map((chunk) => chunk.choices[0].finish_reason);
  assert.equal(reasons.pop(), "stop");
  assert.ok(reasons.every((reason) => reason === null));
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}

const cases = {
  async plain(url) {
    const { data, response, request_id } = await ask(client(url)).withResponse();
    for (const name of ["x-request-id", "openai-processing-ms", "x-process-time", "x-chat-cache", "x-upstream-request-id"]) {
      assert.ok(response.headers.get(name), name);
    }
    assert.equal(request_id, response.headers.get("x-request-id"));
    assert.equal(data.object, "chat.completion");
    assert.equal(data.choices[0].message.content, "word0 word1 word2");
    assert.equal(data.choices[0].finish_reason, "stop");
    assert.equal(data.usage.total_tokens, 10);
  },

  async models(url) {
    const api = client(url);
    assert.deepEqual((await all(api.models.list())).map((model) => model.id), [MODEL]);
    assert.equal((await api.models.retrieve(MODEL)).owned_by, "demo");
    await raised(OpenAI.NotFoundError, () => api.models.retrieve("no-such-model"));
  },

  async tools(url) {
    const api = client(url);
    const [first] = (await ask(api, { tools: [WEATHER], tool_choice: "auto" })).choices;
    assert.equal(first.finish_reason, "tool_calls");
    const [call] = first.message.tool_calls;
    assert.deepEqual(call.function, { name: "weather", arguments: '{"city":"Oslo"}' });
    const said = { role: "tool", tool_call_id: call.id, content: "-3" };
    const answer = await ask(api, { tools: [WEATHER], messages: [...QUESTION, first.message, said] });
    assert.equal(answer.choices[0].message.content, "Snow.");
  },

  async json_schema(url) {
    const schema = {
      type: "object", additionalProperties: false, required: ["city", "degrees"],
      properties: { city: { type: "string" }, degrees: { type: "integer" } },
    };
    const format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
    const answer = await client(url).chat.completions.parse({ model: MODEL, messages: QUESTION, response_format: format });
    assert.deepEqual(JSON.parse(answer.choices[0].message.content), { city: "Oslo", degrees: -3 });
  },

  async everything_else(url) {
    const parts = [
      { type: "text", text: "What is this?" },
      { type: "image_url", image_url: { url: "data:image/png;base64,AAAA", detail: "low" } },
      { type: "input_audio", input_audio: { data: "AAAA", format: "wav" } },
    ];
    const answer = await ask(client(url), {
      messages: [{ role: "user", content: parts }],
      seed: 7, stop: ["END"], logprobs: true, top_logprobs: 2, max_completion_tokens: 50,
      a_field_of_tomorrow: { deep: [1, 2] },
    });
    assert.equal(answer.choices[0].message.content, "word0 word1");
  },

  async stream(url) {
    const chunks = await all(await ask(client(url), { stream: true }));
    assert.equal(whole(chunks), "word0 word1 word2 word3 word4");
    assert.ok(chunks.every((chunk) => chunk.choices.length === 1 && !chunk.usage));
  },

  async stream_with_usage(url) {
    const chunks = await all(await ask(client(url), { stream: true, stream_options: { include_usage: true } }));
    assert.equal(whole(chunks), "word0 word1 word2 word3 word4");
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.total_tokens, 12);
    assert.ok(chunks.every((chunk) => !chunk.usage));
  },

  async stream_of_tool_calls(url) {
    const runner = client(url).chat.completions.stream({ model: MODEL, messages: QUESTION, tools: [WEATHER] });
    const { message } = (await runner.finalChatCompletion()).choices[0];
    const calls = message.tool_calls.map((call) => [call.id, call.function.name, call.function.arguments]);
    assert.deepEqual(calls, [["call_1", "weather", '{"city":"Oslo"}'], ["call_2", "weather", '{"city":"Rome"}']]);
  },

  async stream_that_breaks(url) {
    const seen = [];
    const error = await raised(OpenAI.APIError, async () => {
      for await (const chunk of await ask(client(url), { stream: true })) seen.push(chunk);
    });
    assert.equal(error.code, "backend_invalid_response");
    assert.equal(seen.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), "word0 word1");
    assert.ok(seen.every((chunk) => chunk.choices[0].finish_reason === null));
  },

  async stream_that_never_begins(url) {
    const error = await raised(OpenAI.RateLimitError, () => ask(client(url), { stream: true }));
    assert.equal(error.headers.get("retry-after"), "7");
  },

  async stream_that_is_left(url) {
    for await (const chunk of await ask(client(url), { stream: true })) {
      if (chunk.choices[0].delta.content) break;
    }
  },

  async bad_request(url) {
    const own = await raised(OpenAI.BadRequestError, () => ask(client(url)));
    assert.deepEqual([own.code, own.param], ["context_length_exceeded", "messages"]);
    assert.match(own.message, /the backend's own words/);
    for (const [more, param] of [[{ messages: [] }, "messages"], [{ n: 0 }, "n"], [{ stream: "yes" }, "stream"]]) {
      // Not by `ask`: this SDK would take any `stream` that is true for a wish for events.
      const error = await raised(OpenAI.BadRequestError, () =>
        client(url).post("/chat/completions", { body: { model: MODEL, messages: QUESTION, ...more } }));
      assert.deepEqual([error.code, error.param, error.type], ["invalid_value", param, "invalid_request_error"]);
      assert.ok(error.message.includes(param) && error.requestID);
    }
  },

  async not_found(url) {
    const error = await raised(OpenAI.NotFoundError, () => ask(client(url), { model: "no-such-model" }));
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
    assert.equal((await raised(OpenAI.NotFoundError, () => client(url).files.list())).code, "unknown_url");
  },

  async unprocessable_entity(url) {
    assert.equal((await raised(OpenAI.UnprocessableEntityError, () => ask(client(url)))).code, "unprocessable");
  },

  async conflict(url) {
    const error = await raised(OpenAI.ConflictError, () => ask(client(url)));
    assert.equal(error.code, "conflict");
    assert.match(error.message, /the backend's own words/);
    assert.equal((await ask(client(url, { maxRetries: 1 }))).choices[0].message.content, "word0");
  },

  async rate_limit(url) {
    await ask(client(url));
    const error = await raised(OpenAI.RateLimitError, () => ask(client(url)));
    assert.equal(error.code, "rate_limit_exceeded");
    assert.equal(error.headers.get("x-ratelimit-limit-requests"), "1");
    assert.equal(error.headers.get("x-ratelimit-remaining-requests"), "0");
    assert.ok(Number(error.headers.get("retry-after")) <= 60 && Number(error.headers.get("retry-after-ms")) > 0);
    assert.match(error.headers.get("x-ratelimit-reset-requests"), /s$/);
  },

  async backend_refuses_the_key(url) {
    const error = await raised(OpenAI.InternalServerError, () => ask(client(url, { maxRetries: 3 })));
    assert.deepEqual([error.status, error.code], [502, "backend_auth_failed"]);
    assert.equal(error.headers.get("x-should-retry"), "false");
  },

  async internal_server(url) {
    const error = await raised(OpenAI.InternalServerError, () => ask(client(url)));
    assert.deepEqual([error.status, error.code], [503, "backend_unavailable"]);
  },

  async connection(url) {
    await raised(OpenAI.APIConnectionError, () => ask(client(url)));
  },

  async timeout(url, seconds) {
    await raised(OpenAI.APIConnectionTimeoutError, () => ask(client(url, { timeout: Number(seconds) * 1000 })));
  },

  async retry_after_is_honoured(url) {
    const api = new OpenAI({ baseURL: url, apiKey: "unused" });
    await ask(api);
    await ask(api);
  },

  async spent_budget_is_not_tried_again(url) {
    const error = await raised(OpenAI.RateLimitError, () => ask(client(url, { maxRetries: 3 })));
    assert.equal(error.code, "insufficient_quota");
    assert.equal(error.headers.get("x-should-retry"), "false");
  },

  async unavailable_is_tried_again(url) {
    const answer = await ask(client(url, { maxRetries: 1 }));
    assert.equal(answer.choices[0].message.content, "word0");
  },

  async embeddings(url) {
    const answer = await client(url).embeddings.create({ model: MODEL, input: ["The quick brown fox"] });
    assert.deepEqual([...answer.data[0].embedding], [0.5, -1]);
    assert.equal(answer.usage.total_tokens, 2);
  },

  async responses(url) {
    const api = client(url);
    const first = await api.responses.create({ model: MODEL, input: "Begin" });
    assert.deepEqual([first.object, first.status, first.output_text], ["response", "completed", "word0 word1"]);
    assert.equal(first.usage.total_tokens, 9);
    const second = await api.responses.create({ model: MODEL, input: "Go on", previous_response_id: first.id });
    assert.deepEqual([second.output_text, second.previous_response_id], ["word0 word1 word2", first.id]);
    assert.equal((await api.responses.retrieve(second.id)).output_text, second.output_text);
    assert.deepEqual((await all(api.responses.inputItems.list(first.id))).map((item) => item.role), ["user"]);
    await api.responses.delete(first.id);
    await raised(OpenAI.NotFoundError, () => api.responses.retrieve(first.id));
    const gone = await raised(OpenAI.NotFoundError, () =>
      api.responses.create({ model: MODEL, input: "Go on", previous_response_id: first.id }));
    assert.deepEqual([gone.code, gone.param], ["previous_response_not_found", "previous_response_id"]);
    const refused = await raised(OpenAI.BadRequestError, () => api.responses.create({ model: MODEL, input: "x", background: true }));
    assert.deepEqual([refused.code, refused.param], ["unsupported_parameter", "background"]);
  },

  async responses_as_events(url) {
    const stream = client(url).responses.stream({ model: MODEL, input: "Begin" });
    const events = await all(stream);
    assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, number) => number));
    assert.equal(events[0].type, "response.created");
    assert.equal(events.at(-1).type, "response.completed");
    const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
    assert.equal(text, "word0 word1 word2");
    assert.equal((await stream.finalResponse()).output_text, text);
  },

  async responses_stream_that_breaks(url) {
    const api = client(url, { maxRetries: 3 });
    for (const begin of [
      () => api.responses.create({ model: MODEL, input: "Begin", stream: true }),
      () => api.responses.stream({ model: MODEL, input: "Begin" }),
    ]) {
      const seen = [];
      const error = await raised(OpenAI.APIError, async () => {
        for await (const event of await begin()) seen.push(event);
      });
      assert.equal(error.code, "backend_invalid_response");
      const text = seen.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
      assert.equal(text, "word0 word1");
      assert.ok(seen.every((event) => event.type !== "response.completed"));
      await raised(OpenAI.NotFoundError, () => api.responses.retrieve(seen[0].response.id));
    }
  },

  async responses_stream_that_ends_incomplete(url) {
    const api = client(url);
    const stream = api.responses.stream({ model: MODEL, input: "Begin", max_output_tokens: 2 });
    const last = (await all(stream)).at(-1);
    assert.equal(last.type, "response.incomplete");
    const whole = await stream.finalResponse();
    assert.deepEqual([whole.status, whole.incomplete_details.reason], ["incomplete", "max_output_tokens"]);
    assert.deepEqual([whole.output_text, whole.output[0].status], ["one two", "incomplete"]);
    const stored = await api.responses.retrieve(whole.id);
    assert.deepEqual([stored.status, stored.output_text], ["incomplete", "one two"]);
    const more = await api.responses.create({ model: MODEL, input: "Go on", previous_response_id: stored.id });
    assert.equal(more.output_text, "word0");
  },

  async responses_stream_that_is_left(url) {
    for await (const event of await client(url).responses.create({ model: MODEL, input: "Begin", stream: true })) {
      if (event.type === "response.output_text.delta") break;
    }
  },

  async responses_functions(url) {
    const api = client(url);
    const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
    const tools = [{ type: "function", name: "weather", parameters, strict: true }];
    const asked = [{ role: "user", content: "How cold is it in Oslo?" }];
    const first = await api.responses.parse({ model: MODEL, input: asked, tools });
    const call = first.output.find((item) => item.type === "function_call");
    assert.equal(call.name, "weather");
    const output = { type: "function_call_output", call_id: call.call_id, output: "-4" };
    // What came goes back: as the SDK has it, as a program has dumped it, and by its ids.
    const dumped = JSON.parse(JSON.stringify(first.output));
    const named = first.output.map(({ id }) => ({ type: "item_reference", id }));
    for (const said of [[...asked, ...first.output, output], [...asked, ...dumped, output], [...asked, ...named, output]]) {
      assert.equal((await api.responses.create({ model: MODEL, input: said, tools })).output_text, "word0");
    }
    const second = await api.responses.create({ model: MODEL, input: [output], previous_response_id: first.id, tools });
    assert.equal(second.output_text, "word0");
    const open = await raised(OpenAI.BadRequestError, () =>
      api.responses.create({ model: MODEL, input: "And now?", previous_response_id: first.id }));
    assert.equal(open.param, "input");
    assert.match(open.message, new RegExp(`No tool output found for function call ${call.call_id}`));
    const refused = await raised(OpenAI.BadRequestError, () =>
      api.responses.create({ model: MODEL, input: "x", tool_choice: "required" }));
    assert.deepEqual([refused.code, refused.param], ["invalid_value", "tool_choice"]);
  },

  async authentication(url) {
    const stranger = client(url, { maxRetries: 3, apiKey: "sk-wrong-0123456789" });
    assert.equal((await raised(OpenAI.AuthenticationError, () => ask(stranger))).code, "invalid_api_key");
    const mobile = client(url, { apiKey: "sk-mobile-0123456789abcdef" });
    const web = client(url, { apiKey: "sk-web-0123456789abcdefghij" });
    assert.equal((await ask(mobile)).choices[0].message.content, "word0 word1");
    const stored = await mobile.responses.create({ model: MODEL, input: "Mine" });
    await raised(OpenAI.NotFoundError, () => web.responses.retrieve(stored.id));
    await raised(OpenAI.NotFoundError, () => web.responses.delete(stored.id));
    assert.equal((await mobile.responses.retrieve(stored.id)).output_text, "word0 word1 word2");
  },

  async permission_denied(url, token) {
    const error = await raised(OpenAI.PermissionDeniedError, () => ask(client(url, { apiKey: token })));
    assert.equal(error.code, "caller_not_allowed");
    assert.match(error.message, /shop\/other/);
  },

  async token_as_key(url, token) {
    let read = 0;
    const api = client(url, { apiKey: async () => { read += 1; return token; } });
    assert.equal((await ask(api)).choices[0].message.content, QUESTION[0].content);
    await ask(api);
    assert.equal(read, 2);
  },
};

const [name, ...rest] = process.argv.slice(2);
await cases[name](...rest);
