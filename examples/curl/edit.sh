#!/usr/bin/env bash
# An edit: the image goes along as a part of the form. Any PNG will do; this takes fox.png.
set -euo pipefail
JOB=$(curl -sSf "$DARKROOM_SERVER/api/images/edit" \
  -H "Authorization: Bearer $DARKROOM_KEY" -H 'Prefer: wait=60' \
  -F 'prompt=put it in the snow' -F 'image=@fox.png' | sed -n 's/^{"id":"\([^"]*\)".*/\1/p')
# The events of the job, until it has ended.
curl -sSfN "$DARKROOM_SERVER/api/images/tasks/$JOB/events" -H "Authorization: Bearer $DARKROOM_KEY"
curl -sSf "$DARKROOM_SERVER/api/images/tasks/$JOB/image" -H "Authorization: Bearer $DARKROOM_KEY" -o snow.png
