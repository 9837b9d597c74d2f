#!/bin/sh
# The Responses API: an answer that the server remembers, one that follows on it as it comes, and both erased. Needs jq.
set -eu
: "${OPENAI_BASE_URL:?such as http://127.0.0.1:8080/v1}" "${OPENAI_API_KEY:=unused}"

call() {
  curl --silent --show-error --fail-with-body --no-buffer -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' "$@"
}

first=$(call "$OPENAI_BASE_URL/responses" -d '{"instructions": "Answer briefly.", "input": "My name is Ada"}')
printf %s "$first" | jq -r '"\(.output[0].content[0].text) (\(.usage.total_tokens) tokens)"'
first=$(printf %s "$first" | jq -r .id)

events=$(mktemp)
trap 'rm -f "$events"' EXIT
ask=$(jq -n --arg id "$first" '{previous_response_id: $id, input: "What is my name?", stream: true}')
call "$OPENAI_BASE_URL/responses" -d "$ask" | sed -n 's/^data: //p' | tee "$events" |
  jq -rj 'select(.type == "response.output_text.delta") | .delta'
# Without this event the answer broke off: what was printed is not all of it.
second=$(jq -er 'select(.type == "response.completed" or .type == "response.incomplete") | .response.id' "$events")
jq -r 'select(.response.id and .response.usage) | " (\(.response.usage.total_tokens) tokens)"' "$events"

call "$OPENAI_BASE_URL/responses/$second/input_items" | jq -r '"\(.data | length) items led to it"'
for id in "$first" "$second"; do call -X DELETE "$OPENAI_BASE_URL/responses/$id" >/dev/null; done
