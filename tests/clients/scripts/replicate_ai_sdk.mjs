// @ai-sdk/replicate with ai: images as bytes, by name and by version, an input image, and an error's words.
// Arguments: base URL, key. Prints one JSON line; exits with 0 where everything held.
import assert from "node:assert/strict";
import { createReplicate } from "@ai-sdk/replicate";
import * as ai from "ai";

const generateImage = ai.generateImage ?? ai.experimental_generateImage;
const [base, key] = process.argv.slice(2);
const replicate = createReplicate({ apiToken: key, baseURL: `${base}/v1` });

const two = await generateImage({
  model: replicate.image("black-forest-labs/flux-schnell"),
  prompt: "a red fox",
  n: 2,
  aspectRatio: "16:9",
});
assert.equal(two.images.length, 2);
for (const image of two.images) assert.match(image.mediaType, /^image\//);

const found = await fetch(`${base}/v1/models/black-forest-labs/flux-1.1-pro`, {
  headers: { Authorization: `Bearer ${key}` },
}).then((answer) => answer.json());
const byVersion = await generateImage({
  model: replicate.image(`black-forest-labs/flux-1.1-pro:${found.latest_version.id}`),
  prompt: "a red fox",
  size: "1024x768",
});
assert.ok(byVersion.image.uint8Array.length > 100);

const edited = await generateImage({
  model: replicate.image("black-forest-labs/flux-2-pro"),
  prompt: { text: "the same fox in snow", images: [two.images[0].uint8Array, two.images[1].uint8Array] },
});
assert.ok(edited.image.uint8Array.length > 100);

await assert.rejects(
  generateImage({ model: replicate.image("black-forest-labs/flux-schnel"), prompt: "a red fox", maxRetries: 0 }),
  (error) => error.statusCode === 404 && error.message.includes("did you mean"),
);
console.log(JSON.stringify({ ok: true, client: "@ai-sdk/replicate", images: two.images.length }));
