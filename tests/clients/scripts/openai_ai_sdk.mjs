// Images by the AI SDK's providers for openai and openai-compatible; the first one takes a number of seconds, argument 3.
// Prints one JSON line.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const [base, key, slow] = process.argv.slice(2);
const baseURL = `${base}/v1`;
const openai = createOpenAI({ baseURL, apiKey: key });
const compatible = createOpenAICompatible({ name: "darkroom", baseURL, apiKey: key });
const found = {};
const prompt = "a fox by the AI SDK";

const made = await generateImage({
  model: openai.image("gpt-image-2"),
  prompt: `a slow fox by the AI SDK [sandbox:latency=${slow}]`,
  headers: { "Idempotency-Key": crypto.randomUUID() },
});
found.openai = made.image.uint8Array.length;
const other = await generateImage({ model: compatible.imageModel("gpt-image-2"), prompt, n: 2, size: "1024x1024" });
found.compatible = other.images.length;
const edited = await generateImage({
  model: openai.image("gpt-image-2"),
  prompt: { text: "a hat on it", images: [made.image.uint8Array] },
});
found.edited = edited.image.uint8Array.length;
const refused = await generateImage({ model: openai.image("gpt-imag-2"), prompt, maxRetries: 0 }).catch((error) => error);
found.unknown = refused.statusCode;
console.log(JSON.stringify(found));
