// The service's HTTP API as this page uses it. In: a question, a key. Out: events of an answer as they come, with what
// the headers say of it; or a Failure. Addresses are relative to the page, so that it also works behind a path prefix.

const root = new URL(".", document.baseURI);

/** Why there is no answer, or no whole one. */
export class Failure extends Error {
  /** `kind`: "refused" (a status), "broken" (an error or an end in mid-stream), "unreachable". */
  constructor(kind, { status = 0, code = "", message = "", retryAfter = 0, requestId = "", limits = null } = {}) {
    super(message);
    Object.assign(this, { kind, status, code, retryAfter, requestId, limits });
  }
}

/** The base URL that an OpenAI SDK is given. */
export const sdkBase = new URL("v1", root).href;

/** The names of the models, the service's own first, and the name of the service. */
export async function models(key) {
  const answer = await (await call("v1/models", { key })).json();
  return { names: answer.data.map((model) => model.id), service: answer.data[0]?.owned_by ?? "" };
}

/** The messages of a conversation, oldest first. */
export async function conversation(id, key) {
  return (await (await call(`api/v1/conversations/${id}`, { key })).json()).messages;
}

/** Erases a conversation. One that is gone already is as good. */
export async function erase(id, key) {
  try {
    await call(`api/v1/conversations/${id}`, { method: "DELETE", key });
  } catch (failure) {
    if (failure.status !== 404) throw failure;
  }
}

/** Asks; yields `{ about }` once, `{ delta }` for each piece and `{ end }` with the totals. */
export async function* ask(question, { key, signal }) {
  const response = await call("api/v1/chat/stream", {
    method: "POST", key, signal, body: JSON.stringify(question),
  });
  const about = limits(response.headers);
  yield { about };
  for await (const data of events(response.body, signal)) {
    const event = JSON.parse(data);
    if (event.error) {
      throw new Failure("broken", {
        code: event.error, message: event.message, retryAfter: event.retry_after, requestId: about.requestId,
      });
    }
    if (event.delta) yield { delta: event.delta };
    if (event.finished) return yield { end: event };
  }
  throw new Failure("broken", { code: "cut", requestId: about.requestId });
}

async function call(path, { method = "GET", key, body, signal } = {}) {
  const headers = new Headers();
  if (key) headers.set("authorization", `Bearer ${key}`);
  if (body) headers.set("content-type", "application/json");
  let response;
  try {
    response = await fetch(new URL(path, root), { method, headers, body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure("unreachable");
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** Both dialects' errors: the list of models answers in OpenAI's. */
async function refusal(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy in between answers in its own way; the status has to do.
  }
  const openai = typeof body.error === "object" ? body.error : null;
  return new Failure("refused", {
    status: response.status,
    code: openai?.code ?? body.error ?? "",
    message: openai?.message ?? body.message ?? "",
    retryAfter: Number(response.headers.get("retry-after")) || 0,
    requestId: response.headers.get("x-request-id") ?? "",
    limits: limits(response.headers),
  });
}

function limits(headers) {
  const number = (name) => (headers.has(name) ? Number(headers.get(name)) : null);
  const pair = (what) => {
    const limit = number(`x-ratelimit-limit-${what}`);
    return limit === null ? null : { limit, remaining: number(`x-ratelimit-remaining-${what}`) };
  };
  return {
    cache: headers.get("x-chat-cache"),
    requests: pair("requests"),
    tokens: pair("tokens"),
    requestId: headers.get("x-request-id") ?? "",
  };
}

/** The `data` of each server-sent event. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await read(reader, signal);
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure("broken", { code: "cut" });
  }
}
