"""One case of the official Python SDK against a server. In: the case, the base URL, what else the case takes. Out: exit
code 0, or the assertion that did not hold."""

import sys
from typing import Any

import openai
from openai import OpenAI
from pydantic import BaseModel

MODEL = "gpt-4o-mini"
QUESTION: Any = [{"role": "user", "content": "How is the weather?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client(url: str, **options: Any) -> OpenAI:
    return OpenAI(**{"base_url": url, "api_key": "unused", "timeout": 60, "max_retries": 0, **options})


def ask(api: OpenAI, **more: Any) -> Any:
    return api.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **more})


def raised(kind: type, act: Any) -> Any:
    """What `act` raises, which must be exactly of this kind."""
    try:
        act()
    except openai.OpenAIError as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"nothing was raised, not {kind.__name__}")


def plain(url: str) -> None:
    raw = client(url).chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION)
    for name in ["x-request-id", "openai-processing-ms", "x-process-time", "x-chat-cache", "x-upstream-request-id"]:
        assert raw.headers.get(name), (name, raw.headers)
    answer = raw.parse()
    assert answer._request_id == raw.headers["x-request-id"]
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "word0 word1 word2", answer
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 10


def models(url: str) -> None:
    api = client(url)
    assert [model.id for model in api.models.list()] == [MODEL]
    assert api.models.retrieve(MODEL).owned_by == "demo"
    raised(openai.NotFoundError, lambda: api.models.retrieve("no-such-model"))


def tools(url: str) -> None:
    api = client(url)
    first = ask(api, tools=[WEATHER], tool_choice="auto").choices[0]
    assert first.finish_reason == "tool_calls"
    [call] = first.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Oslo"}')
    said = {"role": "tool", "tool_call_id": call.id, "content": "-3"}
    answer = ask(api, tools=[WEATHER], messages=[*QUESTION, first.message, said])
    assert answer.choices[0].message.content == "Snow."


def json_schema(url: str) -> None:
    class Weather(BaseModel):
        city: str
        degrees: int

    answer = client(url).chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=-3)


def everything_else(url: str) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    answer = ask(
        client(url),
        messages=[{"role": "user", "content": parts}],
        seed=7,
        stop=["END"],
        logprobs=True,
        top_logprobs=2,
        max_completion_tokens=50,
        extra_body={"a_field_of_tomorrow": {"deep": [1, 2]}},
    )
    assert answer.choices[0].message.content == "word0 word1"


def whole(chunks: list) -> str:
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}, reasons
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def stream(url: str) -> None:
    chunks = list(ask(client(url), stream=True))
    assert whole(chunks) == "word0 word1 word2 word3 word4"
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def stream_with_usage(url: str) -> None:
    chunks = list(ask(client(url), stream=True, stream_options={"include_usage": True}))
    assert whole(chunks) == "word0 word1 word2 word3 word4"
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 12, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])


def stream_of_tool_calls(url: str) -> None:
    with client(url).chat.completions.stream(model=MODEL, messages=QUESTION, tools=[WEATHER]) as events:
        message = events.get_final_completion().choices[0].message
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls]
    assert calls == [("call_1", "weather", '{"city":"Oslo"}'), ("call_2", "weather", '{"city":"Rome"}')], calls


def stream_that_breaks(url: str) -> None:
    seen = []

    def read() -> None:
        for chunk in ask(client(url), stream=True):
            seen.append(chunk)

    error = raised(openai.APIError, read)
    assert error.code == "backend_invalid_response", error.body
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen) == "word0 word1"
    assert all(chunk.choices[0].finish_reason is None for chunk in seen)


def stream_that_never_begins(url: str) -> None:
    error = raised(openai.RateLimitError, lambda: ask(client(url), stream=True))
    assert error.response.headers["retry-after"] == "7"


def stream_that_is_left(url: str) -> None:
    with ask(client(url), stream=True) as events:
        for chunk in events:
            if chunk.choices[0].delta.content:
                break


def bad_request(url: str) -> None:
    error = raised(openai.BadRequestError, lambda: ask(client(url)))
    assert (error.code, error.param) == ("context_length_exceeded", "messages"), error.body
    assert "the backend's own words" in error.message
    for more, param in [({"messages": []}, "messages"), ({"n": 0}, "n"), ({"stream": "yes"}, "stream")]:
        error = raised(openai.BadRequestError, lambda: ask(client(url), **more))
        assert (error.code, error.param, error.type) == ("invalid_value", param, "invalid_request_error"), error.body
        assert param in error.message and error.request_id


def not_found(url: str) -> None:
    error = raised(openai.NotFoundError, lambda: ask(client(url), model="no-such-model"))
    assert (error.code, error.param) == ("model_not_found", "model")
    error = raised(openai.NotFoundError, lambda: client(url).files.list())
    assert error.code == "unknown_url"


def unprocessable_entity(url: str) -> None:
    assert raised(openai.UnprocessableEntityError, lambda: ask(client(url))).code == "unprocessable"


def conflict(url: str) -> None:
    error = raised(openai.ConflictError, lambda: ask(client(url)))
    assert error.code == "conflict" and "the backend's own words" in error.message, error.body
    assert ask(client(url, max_retries=1)).choices[0].message.content == "word0"


def rate_limit(url: str) -> None:
    ask(client(url))
    error = raised(openai.RateLimitError, lambda: ask(client(url)))
    assert error.code == "rate_limit_exceeded"
    headers = error.response.headers
    assert headers["x-ratelimit-limit-requests"] == "1" and headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(headers["retry-after"]) <= 60 and int(headers["retry-after-ms"]) > 0
    assert headers["x-ratelimit-reset-requests"].endswith("s")


def backend_refuses_the_key(url: str) -> None:
    error = raised(openai.InternalServerError, lambda: ask(client(url, max_retries=3)))
    assert (error.status_code, error.code) == (502, "backend_auth_failed")
    assert error.response.headers["x-should-retry"] == "false"


def internal_server(url: str) -> None:
    error = raised(openai.InternalServerError, lambda: ask(client(url)))
    assert (error.status_code, error.code) == (503, "backend_unavailable")


def connection(url: str) -> None:
    raised(openai.APIConnectionError, lambda: ask(client(url)))


def timeout(url: str, seconds: str) -> None:
    raised(openai.APITimeoutError, lambda: ask(client(url, timeout=float(seconds))))


def retry_after_is_honoured(url: str) -> None:
    api = OpenAI(base_url=url, api_key="unused")
    ask(api)
    ask(api)


def spent_budget_is_not_tried_again(url: str) -> None:
    error = raised(openai.RateLimitError, lambda: ask(client(url, max_retries=3)))
    assert error.code == "insufficient_quota"
    assert error.response.headers["x-should-retry"] == "false"


def unavailable_is_tried_again(url: str) -> None:
    assert ask(client(url, max_retries=1)).choices[0].message.content == "word0"


def embeddings(url: str) -> None:
    answer = client(url).embeddings.create(model=MODEL, input=["The quick brown fox"])
    assert answer.data[0].embedding == [0.5, -1.0], answer
    assert answer.usage.total_tokens == 2


def responses(url: str) -> None:
    api = client(url)
    first = api.responses.create(model=MODEL, input="Begin")
    assert (first.object, first.status, first.output_text) == ("response", "completed", "word0 word1"), first
    assert first.usage.total_tokens == 9
    second = api.responses.create(model=MODEL, input="Go on", previous_response_id=first.id)
    assert second.output_text == "word0 word1 word2" and second.previous_response_id == first.id
    stored = api.responses.retrieve(second.id)
    assert stored.output_text == second.output_text
    assert [item.role for item in api.responses.input_items.list(first.id)] == ["user"]
    api.responses.delete(first.id)
    raised(openai.NotFoundError, lambda: api.responses.retrieve(first.id))
    error = raised(
        openai.NotFoundError,
        lambda: api.responses.create(model=MODEL, input="Go on", previous_response_id=first.id),
    )
    assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")
    error = raised(openai.BadRequestError, lambda: api.responses.create(model=MODEL, input="x", background=True))
    assert (error.code, error.param) == ("unsupported_parameter", "background")


def responses_as_events(url: str) -> None:
    with client(url).responses.stream(model=MODEL, input="Begin") as stream:
        events = list(stream)
        whole = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == "word0 word1 word2"


def responses_stream_that_breaks(url: str) -> None:
    api = client(url, max_retries=3)
    seen: list = []

    def read(events: Any) -> None:
        for event in events:
            seen.append(event)

    def by_helper() -> None:
        with api.responses.stream(model=MODEL, input="Begin") as events:
            read(events)

    for act in [lambda: read(api.responses.create(model=MODEL, input="Begin", stream=True)), by_helper]:
        seen.clear()
        error = raised(openai.APIError, act)
        assert error.code == "backend_invalid_response", error.body
        assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "word0 word1"
        assert all(event.type != "response.completed" for event in seen)
        raised(openai.NotFoundError, lambda: api.responses.retrieve(seen[0].response.id))


def responses_stream_that_ends_incomplete(url: str) -> None:
    api = client(url)
    events = list(api.responses.create(model=MODEL, input="Begin", stream=True, max_output_tokens=2))
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.status == "incomplete", last
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output_text == "one two" and last.response.output[0].status == "incomplete"
    stored = api.responses.retrieve(last.response.id)
    assert (stored.status, stored.output_text) == ("incomplete", "one two"), stored
    more = api.responses.create(model=MODEL, input="Go on", previous_response_id=stored.id)
    assert more.output_text == "word0"


def responses_stream_that_is_left(url: str) -> None:
    with client(url).responses.create(model=MODEL, input="Begin", stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                break


def responses_functions(url: str) -> None:
    api = client(url)
    city = {"city": {"type": "string"}}
    parameters = {"type": "object", "properties": city, "required": ["city"], "additionalProperties": False}
    tools = [{"type": "function", "name": "weather", "parameters": parameters, "strict": True}]
    asked = [{"role": "user", "content": "How cold is it in Oslo?"}]
    first = api.responses.parse(model=MODEL, input=asked, tools=tools)
    call = next(item for item in first.output if item.type == "function_call")
    assert (call.name, call.parsed_arguments) == ("weather", {"city": "Oslo"}), call
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "-4"}
    # What came goes back: as the SDK has it, as a program has dumped it, and by its ids.
    dumped = [item.model_dump() for item in first.output]
    named = [{"type": "item_reference", "id": item.id} for item in first.output]
    for said in [[*asked, *first.output, output], [*asked, *dumped, output], [*asked, *named, output]]:
        assert api.responses.create(model=MODEL, input=said, tools=tools).output_text == "word0"
    second = api.responses.create(model=MODEL, input=[output], previous_response_id=first.id, tools=tools)
    assert second.output_text == "word0", second
    error = raised(
        openai.BadRequestError,
        lambda: api.responses.create(model=MODEL, input="And now?", previous_response_id=first.id),
    )
    assert error.param == "input" and f"No tool output found for function call {call.call_id}" in error.message, error.body
    error = raised(openai.BadRequestError, lambda: api.responses.create(model=MODEL, input="x", tool_choice="required"))
    assert (error.code, error.param) == ("invalid_value", "tool_choice"), error.body


def authentication(url: str) -> None:
    error = raised(openai.AuthenticationError, lambda: ask(client(url, max_retries=3, api_key="sk-wrong-0123456789")))
    assert error.code == "invalid_api_key", error.body
    mobile = client(url, api_key="sk-mobile-0123456789abcdef")
    web = client(url, api_key="sk-web-0123456789abcdefghij")
    assert ask(mobile).choices[0].message.content == "word0 word1"
    stored = mobile.responses.create(model=MODEL, input="Mine")
    raised(openai.NotFoundError, lambda: web.responses.retrieve(stored.id))
    raised(openai.NotFoundError, lambda: web.responses.delete(stored.id))
    assert mobile.responses.retrieve(stored.id).output_text == "word0 word1 word2"


def permission_denied(url: str, token: str) -> None:
    error = raised(openai.PermissionDeniedError, lambda: ask(client(url, api_key=token)))
    assert error.code == "caller_not_allowed" and "shop/other" in error.message, error.body


def token_as_key(url: str, token: str) -> None:
    read = []

    def key() -> str:
        read.append(token)
        return token

    api = client(url, api_key=key)
    assert ask(api).choices[0].message.content == QUESTION[0]["content"]
    ask(api)
    assert len(read) == 2


if __name__ == "__main__":
    case, *arguments = sys.argv[1:]
    globals()[case](*arguments)
