#!/usr/bin/env bash
# One call: wait up to a minute, and let the answer be the image itself.
set -euo pipefail
curl -sSf "$DARKROOM_SERVER/api/images/generate" \
  -H "Authorization: Bearer $DARKROOM_KEY" -H 'Prefer: wait=60' -H 'Accept: image/*' \
  -H 'Content-Type: application/json' -d '{"prompt": "a red fox asleep", "size": "1024x1024"}' -o fox.png
file fox.png 2>/dev/null || ls -l fox.png
