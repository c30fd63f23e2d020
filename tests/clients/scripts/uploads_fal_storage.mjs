// @fal-ai/client's storage against a server: argument 1 is its base URL, argument 2 a key. Prints one JSON line.
import assert from "node:assert/strict";
import { deflateSync, crc32 } from "node:zlib";
import { createFalClient } from "@fal-ai/client";

const [base, key] = process.argv.slice(2);
const here = (request) => ({ ...request, url: request.url.replace("https://rest.fal.ai", `${base}/fal/rest`) });
const asked = [];
const spied = (url, init) => {
  asked.push({ method: init?.method, url: String(url), key: new Headers(init?.headers).has("authorization") });
  return fetch(url, init);
};
const fal = createFalClient({ credentials: key, requestMiddleware: async (request) => here(request), fetch: spied });

const sent = png(41);
const url = await fal.storage.upload(new File([sent], "a cat.png", { type: "image/png" }));
assert.ok(url.startsWith(`${base}/api/uploads/upl_`), url);
assert.deepEqual(asked.map((each) => [each.method, each.key]), [["POST", true], ["PUT", false]]);

// Its address needs no key, and is an input that is not fetched.
const image = await fetch(url);
assert.equal(image.headers.get("content-type"), "image/png");
const order = await fetch(`${base}/api/images/edit`, {
  method: "POST",
  headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
  body: JSON.stringify({ prompt: "a hat", images: [url], model: "gpt-image-2" }),
});
assert.equal(order.status, 202, await order.clone().text());

// The link takes one file: the same bytes again, and no others; and no link that was altered.
const put = (body, to = asked[1].url) => fetch(to, { method: "PUT", body });
assert.equal((await put(sent)).status, 200);
assert.equal((await put(png(42))).status, 409);
assert.equal((await put(sent, asked[1].url.replace(/upl_.{26}/, "upl_" + "0".repeat(26)))).status, 403);

// Blobs in an input upload by themselves.
const input = await fal.storage.transformInput({ image_url: new Blob([png(43)], { type: "image/png" }), n: 1 });
assert.ok(input.image_url.startsWith(`${base}/api/uploads/upl_`), input.image_url);
await assert.rejects(fal.storage.upload(new Blob(["no image"], { type: "image/png" })), (error) => {
  assert.ok(error.status >= 400 && error.body.message, JSON.stringify(error));
  return true;
});
console.log(JSON.stringify({ client: "@fal-ai/client", task: (await order.json()).id, url: url.split("?")[0] }));

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
