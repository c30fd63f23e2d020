// Replicate's client, pointed at Darkroom. npm install replicate
import { writeFile } from "node:fs/promises";
import Replicate from "replicate";

const replicate = new Replicate({ auth: process.env.DARKROOM_KEY, baseUrl: process.env.DARKROOM_SERVER + "/v1" });

const [image] = await replicate.run("black-forest-labs/flux-schnell", {
  input: { prompt: "a red fox asleep", num_outputs: 1 },
});
// A link, which needs no key. (Over https the client makes a FileOutput of it, whose String() is the link.)
const answer = await fetch(String(image));
await writeFile("fox.webp", Buffer.from(await answer.arrayBuffer()));
