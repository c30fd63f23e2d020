// Replicate's client, pointed at Darkroom. npm install replicate
import { writeFile } from "node:fs/promises";
import Replicate from "replicate";

const replicate = new Replicate({ auth: process.env.DARKROOM_KEY, baseUrl: process.env.DARKROOM_SERVER + "/v1" });

const [image] = await replicate.run("black-forest-labs/flux-schnell", {
  input: { prompt: "a red fox asleep", num_outputs: 1 },
});
await writeFile("fox.webp", Buffer.from(await (await image.blob()).arrayBuffer()));
