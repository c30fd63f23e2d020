// The callback of an order, checked by two verifiers of others: node webhooks_verify.mjs <base URL> <key>
// The service must allow the host 127.0.0.1 (DARKROOM_WEBHOOK_ALLOWED_HOSTS), and the key needs the scope webhooks.
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";
import { validateWebhook } from "replicate";

const [base, key] = process.argv.slice(2);
const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
const { secret } = await (await fetch(`${base}/api/webhooks/secret`, { headers })).json();

const arrived = new Promise((resolve) => {
  const server = createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      response.writeHead(204).end();
      resolve({ headers: request.headers, body: Buffer.concat(parts).toString() });
      server.close();
    });
  });
  server.listen(0, "127.0.0.1", async () => {
    const order = {
      prompt: "a fox for a receiver in Node",
      webhook_url: `http://127.0.0.1:${server.address().port}/hook`,
      webhook_events: ["image.task.succeeded"],
    };
    const answer = await fetch(`${base}/api/images/generate`, { method: "POST", headers, body: JSON.stringify(order) });
    if (answer.status !== 202) throw new Error(`${answer.status}: ${await answer.text()}`);
  });
});

const got = await arrived;
const event = new Webhook(secret).verify(got.body, got.headers);
const replicate = await validateWebhook({
  id: got.headers["webhook-id"],
  timestamp: got.headers["webhook-timestamp"],
  signature: got.headers["webhook-signature"],
  body: got.body,
  secret,
});
const image = await fetch(event.data.images[0].signed_url);
const done = { type: event.type, status: event.data.status, replicate, image: image.status };
console.log(JSON.stringify(done));
process.exit(replicate && image.status === 200 && event.type === "image.task.succeeded" ? 0 : 1);
