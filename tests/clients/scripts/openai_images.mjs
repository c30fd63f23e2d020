// Images by openai-node: made, edited from a stream, as events, refused; made and refused after a number of seconds,
// argument 3. Prints one JSON line.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import OpenAI, { toFile } from "openai";

const [base, key, slow] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key });
const found = {};
const fail = (why) => {
  console.error(why);
  process.exit(1);
};

const made = await client.images.generate({ prompt: "a fox by node", response_format: "url", n: 2 });
const image = await fetch(made.data[0].url);
if (!image.headers.get("content-type").startsWith("image/")) fail("the link is no image");
const bytes = Buffer.from(await image.arrayBuffer());
found.url = made.data.length;
const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "images-")), "fox.png");
fs.writeFileSync(file, bytes);
const edited = await client.images.edit({ image: fs.createReadStream(file), prompt: "a hat on it" });
found.edited = edited.data[0].b64_json.length;
const both = await client.images.edit({
  image: [await toFile(bytes, "one.png", { type: "image/png" }), await toFile(bytes, "two.png", { type: "image/png" })],
  prompt: "two foxes",
});
found.both = both.data[0].b64_json.length;
found.events = [];
for await (const event of await client.images.generate({ prompt: "a fox in pieces", stream: true })) {
  found.events.push(event.type);
}
const refused = await client.images.generate({ prompt: "a fox [sandbox:refuse]" }).catch((error) => error);
found.refused = { name: refused.constructor.name, code: refused.code, id: Boolean(refused.requestID) };
const unknown = await client.images.generate({ prompt: "a fox", model: "gpt-imag-2" }).catch((error) => error);
found.unknown = { name: unknown.constructor.name, code: unknown.code, param: unknown.param };

const slowly = await client.images.generate({ prompt: `a slow fox by node [sandbox:latency=${slow}]` });
found.slow = slowly.data[0].b64_json.length > 0;
const broken = await client.images
  .generate({ prompt: `a slow hare by node [sandbox:latency=${slow},fail=moderation]` })
  .catch((error) => error);
if (!(broken instanceof Error)) fail(`no error for a late refusal: ${JSON.stringify(broken)}`);
found.late = { name: broken.constructor.name, message: broken.message };
console.log(JSON.stringify(found));
