#!/bin/sh
# What can go wrong: curl tries 429 and 5xx again, after the time that Retry-After names; other errors are shown.
set -eu
: "${OPENAI_BASE_URL:?such as http://127.0.0.1:8080/v1}" "${OPENAI_API_KEY:=unused}"

ask() {
  curl --silent --show-error --fail-with-body --max-time 120 --retry 4 "$OPENAI_BASE_URL/chat/completions" \
    -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' -d "$1"
}

ask '{"messages": [{"role": "user", "content": "Hello"}]}' && echo
# A mistake of ours: `error.param` names the field, `error.message` says what is allowed. No other try helps.
ask '{"messages": []}' || echo
