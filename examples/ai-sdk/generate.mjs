// The Vercel AI SDK with four of its providers. npm install ai @ai-sdk/openai @ai-sdk/openai-compatible
// @ai-sdk/replicate @ai-sdk/fal (Node 22 or newer)
import { writeFile } from "node:fs/promises";
import { generateImage } from "ai";
import { createFal } from "@ai-sdk/fal";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createReplicate } from "@ai-sdk/replicate";

const server = process.env.DARKROOM_SERVER;
const apiKey = process.env.DARKROOM_KEY;
const models = {
  openai: createOpenAI({ baseURL: server + "/v1", apiKey }).image("gpt-image-2"),
  compatible: createOpenAICompatible({ name: "darkroom", baseURL: server + "/v1", apiKey }).imageModel("gpt-image-2"),
  replicate: createReplicate({ baseURL: server + "/v1", apiToken: apiKey }).image("black-forest-labs/flux-schnell"),
  fal: createFal({ baseURL: server + "/fal/run", apiKey }).image("fal-ai/flux/dev"),
};

for (const [name, model] of Object.entries(models)) {
  // The SDK counts no attempts: with a key of your own, a repeated call joins the first one.
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  const { image } = await generateImage({ model, prompt: "a red fox asleep", headers });
  await writeFile(`${name}.${image.mediaType.replace("image/", "")}`, image.uint8Array);
}
