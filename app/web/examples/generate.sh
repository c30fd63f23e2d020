# DARKROOM_SERVER is the address of this page, DARKROOM_KEY your key.
JOB=$(curl -sSf "$DARKROOM_SERVER/api/images/generate" -H "Authorization: Bearer $DARKROOM_KEY" \
           -H 'Content-Type: application/json' -d '{"prompt": "a red fox asleep", "size": "1024x1024"}' |
      sed -n 's/^{"id":"\([^"]*\)".*/\1/p')
while curl -sSf "$DARKROOM_SERVER/api/images/tasks/$JOB?wait=30" -H "Authorization: Bearer $DARKROOM_KEY" -o task.json &&
      ! grep -Eq '"status":"(succeeded|failed|cancelled)"' task.json; do :; done
curl -sSf "$DARKROOM_SERVER/api/images/tasks/$JOB/image" -H "Authorization: Bearer $DARKROOM_KEY" -o fox.png
