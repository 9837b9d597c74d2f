#!/bin/sh
# Embeddings: which text is nearest to a question. Needs jq.
set -eu
: "${OPENAI_BASE_URL:?such as http://127.0.0.1:8080/v1}" "${OPENAI_API_KEY:=unused}"

texts='["Paris is the capital of France", "A cat sleeps sixteen hours a day", "Rust has no garbage collector"]'
# Where the service serves models that chat too, say which one embeds; left out, it is the service's own.
ask=$(jq -n --argjson texts "$texts" --arg model "${EMBEDDING_MODEL:-}" \
  '{input: (["How many hours a day does a cat sleep?"] + $texts)} + if $model == "" then {} else {$model} end')
# Vectors have length 1: the larger the product, the nearer the texts.
curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/embeddings" \
  -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' -d "$ask" |
  jq -r --argjson texts "$texts" '[.data[].embedding] as [$question] | [.data[1:][].embedding | [., $question] | transpose | map(.[0] * .[1]) | add]
    as $nearness | $texts[$nearness | index(max)], "\($question | length) dimensions, \(.usage.total_tokens) tokens"'
