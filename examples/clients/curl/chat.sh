#!/bin/sh
# OpenAI's dialect: one answer, then one as it comes, with its usage in the last event.
set -eu
: "${OPENAI_BASE_URL:?such as http://127.0.0.1:8080/v1}" "${OPENAI_API_KEY:=unused}"

ask() {
  curl --silent --show-error --fail-with-body --no-buffer "$OPENAI_BASE_URL/chat/completions" \
    -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' -d "$1"
  echo
}

ask '{"messages": [{"role": "user", "content": "Say hello"}]}'
ask '{"messages": [{"role": "user", "content": "Count to three"}], "stream": true, "stream_options": {"include_usage": true}}'
