// replicate-js's own check of a callback. Argument 1: the secret; standard input: {"headers": {...}, "body": "..."}.
// Prints one JSON line; exits with 0 where the signature holds.
import { validateWebhook } from "replicate";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { headers, body } = JSON.parse(Buffer.concat(chunks).toString());
const ok = await validateWebhook(
  new Request("https://receiver.example/hook", { method: "POST", headers, body }),
  process.argv[2],
);
console.log(JSON.stringify({ ok, client: "replicate-js validateWebhook" }));
process.exit(ok ? 0 : 1);
