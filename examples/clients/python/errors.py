"""What can go wrong, what the SDK tries again by itself, and what to do about the rest."""

import openai
from openai import OpenAI

# The SDK tries 408, 429 and 5xx again, after the time that the server names (retry-after-ms). It does not where the server
# says that it is of no use (x-should-retry: false): a spent budget, a key that the backend refuses.
client = OpenAI(max_retries=4, timeout=120)
model = client.models.list().data[0].id


def ask(question: str, **more) -> str:
    said = ""
    try:
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=True, **more
        )
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
        return said
    except openai.BadRequestError as error:
        return f"our mistake: {error.param}: {error.message}"
    except openai.AuthenticationError:
        return "the key is missing or wrong"
    except openai.RateLimitError as error:
        if error.code == "insufficient_quota":
            return "the budget is used up"
        return f"too much at once, try again in {error.response.headers.get('retry-after')} s"
    except openai.APITimeoutError:
        return "no answer in time"
    except openai.APIConnectionError:
        return "the service cannot be reached"
    except openai.InternalServerError as error:
        return f"the service or its backend has a problem ({error.code}); request {error.request_id}"
    except openai.APIError as error:
        # A stream that breaks never ends as if it were whole.
        return f"the answer broke off after {said!r}: {error.message}"


print(ask("Hello"))
print(ask("Hello", temperature=3, n=0))
