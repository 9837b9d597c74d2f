#!/bin/sh
# A function that the model may call, and its result. Needs jq.
set -eu
: "${OPENAI_BASE_URL:?such as http://127.0.0.1:8080/v1}" "${OPENAI_API_KEY:=unused}"

ask() {
  curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' -d "$1"
}

tools='[{"type": "function", "function": {"name": "weather", "description": "The temperature in a city, in degrees Celsius",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]'
messages='[{"role": "user", "content": "How cold is it in Oslo?"}]'

answer=$(ask "$(jq -n --argjson tools "$tools" --argjson messages "$messages" '{$messages, $tools}')")
called=$(printf %s "$answer" | jq '.choices[0].message')
id=$(printf %s "$called" | jq -r '.tool_calls[0].id')
city=$(printf %s "$called" | jq -r '.tool_calls[0].function.arguments | fromjson | .city')
echo "The model asks for the weather in $city"

result='-3'
messages=$(printf %s "$messages" | jq --argjson called "$called" --arg id "$id" --arg result "$result" \
  '. + [$called, {role: "tool", tool_call_id: $id, content: $result}]')
ask "$(jq -n --argjson tools "$tools" --argjson messages "$messages" '{$messages, $tools}')" | jq -r '.choices[0].message.content'
