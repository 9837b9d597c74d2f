#!/bin/sh
# In a pod, with its ServiceAccount token instead of a key. The kubelet replaces the token before it expires, so it is read
# for each request. See keyless.yaml for the pod's part.
set -eu
: "${OPENAI_BASE_URL:?such as http://demo:8080/v1}" "${TOKEN_FILE:=/var/run/secrets/chatservice/token}"

curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
  -H "authorization: Bearer $(cat "$TOKEN_FILE")" -H 'content-type: application/json' \
  -d '{"messages": [{"role": "user", "content": "Who am I?"}]}'
echo
