// replicate's files against a server: argument 1 is its base URL, argument 2 a key. Prints one JSON line.
import assert from "node:assert/strict";
import { deflateSync, crc32 } from "node:zlib";
import Replicate from "replicate";

const [base, key] = process.argv.slice(2);
const client = new Replicate({ auth: key, baseUrl: `${base}/v1` });

const made = await client.files.create(new Blob([png(31)], { type: "image/png" }), { who: "me" });
assert.match(made.id, /^upl_/);
assert.deepEqual(made.metadata, { who: "me" });
assert.equal(made.urls.get, `${base}/v1/files/${made.id}`);
assert.equal(typeof made.created_at, "string");
assert.deepEqual(await client.files.get(made.id), made);
assert.equal((await client.files.list()).results[0].id, made.id);

// Its address is an input: nothing is fetched.
const order = await fetch(`${base}/api/images/edit`, {
  method: "POST",
  headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
  body: JSON.stringify({ prompt: "a hat", images: [made.urls.get], model: "gpt-image-2" }),
});
assert.equal(order.status, 202, await order.clone().text());

assert.equal(await client.files.delete(made.id), true);
await assert.rejects(client.files.get(made.id), (error) => error.response.status === 404);
console.log(JSON.stringify({ client: "replicate", task: (await order.json()).id, file: made.id }));

function png(red) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const size = Buffer.alloc(4), sum = Buffer.alloc(4);
    size.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([size, body, sum]);
  };
  const head = Buffer.from([0, 0, 1, 0, 0, 0, 1, 0, 8, 2, 0, 0, 0]);
  const row = Buffer.concat([Buffer.from([0]), Buffer.concat(Array(256).fill(Buffer.from([red, 80, 120])))]);
  const data = deflateSync(Buffer.concat(Array(256).fill(row)));
  const mark = Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]);
  return Buffer.concat([mark, chunk("IHDR", head), chunk("IDAT", data), chunk("IEND", Buffer.alloc(0))]);
}
