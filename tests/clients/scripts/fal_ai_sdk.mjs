// The AI SDK's provider of fal against a service: node fal_ai_sdk.mjs BASE KEY. Prints one JSON line.
import { createFal } from "@ai-sdk/fal";
import { generateImage } from "ai";

const [base, key] = process.argv.slice(2);
const fal = createFal({ apiKey: key, baseURL: `${base}/fal/run` });
const seen = {};
const { images, providerMetadata } = await generateImage({
  model: fal.image("fal-ai/gpt-image-1"),
  prompt: "a red fox",
  size: "1024x1024",
  n: 2,
});
seen.generate = images.map((image) => image.mediaType);
seen.metadata = [providerMetadata.fal.images[0].width, providerMetadata.fal.images[0].nsfw];
const edited = await generateImage({
  model: fal.image("fal-ai/nano-banana/edit"),
  prompt: { text: "make it blue", images: [images[0].uint8Array] },
  aspectRatio: "1:1",
});
seen.edit = edited.images.length;
try {
  await generateImage({ model: fal.image("fal-ai/gpt-image-1"), prompt: "", maxRetries: 0 });
} catch (error) {
  seen.refused = [error.statusCode, error.message];
}
console.log(JSON.stringify(seen));
