#!/bin/sh
# The simple dialect: a conversation that the server remembers, the second answer as it comes, then erased. Needs jq.
set -eu
: "${OPENAI_BASE_URL:?such as http://127.0.0.1:8080/v1}" "${OPENAI_API_KEY:=unused}"
api=${OPENAI_BASE_URL%/v1}/api/v1

call() {
  curl --silent --show-error --fail-with-body --no-buffer -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' "$@"
}

answer=$(call "$api/chat" -d '{"message": "My name is Ada"}')
printf %s "$answer" | jq -r '"\(.message) (\(.tokens_used) tokens, \(.cost_estimate // "no known price"))"'
id=$(printf %s "$answer" | jq -r .conversation_id)

call "$api/chat/stream" -d "$(jq -n --arg id "$id" '{message: "What is my name?", conversation_id: $id}')" |
  sed -n 's/^data: //p' | jq -rj '.delta // ("\n" + .message)'
echo

call "$api/conversations/$id" | jq -r '"\(.messages | length) messages, \(.total_tokens) tokens"'
call -X DELETE "$api/conversations/$id"
