// replicate (npm) against Darkroom: run in each way to wait, stream, list, cancel, files where the server has them.
// Arguments: base URL, key. Prints one JSON line; exits with 0 where everything held.
import assert from "node:assert/strict";
import Replicate from "replicate";

const [base, key] = process.argv.slice(2);
const MODEL = "black-forest-labs/flux-schnell";
const client = new Replicate({ auth: key, baseUrl: `${base}/v1`, useFileOutput: false });

async function bytesOf(link) {
  const answer = await fetch(link); // no key: links are signed
  assert.equal(answer.status, 200, link);
  assert.match(answer.headers.get("content-type"), /^image\//);
  return (await answer.arrayBuffer()).byteLength;
}

// A blocking run, one that polls, and one whose wait is shorter than the job.
const blocked = await client.run(MODEL, { input: { prompt: "a red fox", num_outputs: 2 } });
assert.equal(blocked.length, 2);
for (const link of blocked) assert.ok((await bytesOf(link)) > 100);
const seen = [];
const polled = await client.run(
  MODEL,
  { input: { prompt: "a red fox, polled" }, wait: { mode: "poll", interval: 200 } },
  (prediction) => seen.push(prediction.status),
);
assert.equal(polled.length, 1);
assert.equal(seen[0], "starting");
assert.equal(seen.at(-1), "succeeded");
const impatient = await client.run(MODEL, {
  input: { prompt: "a red fox, waited for shortly" },
  wait: { mode: "block", timeout: 1 },
});
assert.equal(impatient.length, 1);

// By version: the bare id of the version is sent.
const model = await client.models.get("black-forest-labs", "flux-1.1-pro");
const one = await client.run(`black-forest-labs/flux-1.1-pro:${model.latest_version.id}`, {
  input: { prompt: "a red fox, once" },
});
assert.equal(typeof one, "string");
await bytesOf(one);
const version = await client.models.versions.get("black-forest-labs", "flux-1.1-pro", model.latest_version.id);
assert.equal(version.openapi_schema.components.schemas.Output.type, "string");

// A stream opens without a key.
const events = [];
for await (const event of client.stream(MODEL, { input: { prompt: "a red fox, streamed" } })) events.push(event);
assert.equal(events.at(-1).event, "done");
const output = events.find((event) => event.event === "output");
await bytesOf(`${output}`);

// Lists, page by page; cancel; another name's error.
const prediction = await client.predictions.create({ model: MODEL, input: { prompt: "to be cancelled" } });
const cancelled = await client.predictions.cancel(prediction.id);
assert.equal(cancelled.id, prediction.id);
const page = await client.predictions.list();
assert.ok(page.results.some((each) => each.id === prediction.id));
let pages = 0;
for await (const results of client.paginate(client.models.list)) {
  assert.ok(results.every((each) => each.owner && each.name));
  pages += 1;
}
await assert.rejects(
  client.run("black-forest-labs/flux-schnel", { input: { prompt: "a red fox" } }),
  (error) => error.response.status === 404 && error.message.includes(MODEL),
);

console.log(JSON.stringify({ ok: true, client: "replicate-js", pages, events: events.length }));
