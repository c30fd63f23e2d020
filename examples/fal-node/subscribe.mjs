// fal's client, pointed at Darkroom: it has no base URL, so its requests are redirected. npm install @fal-ai/client
import { readFile, writeFile } from "node:fs/promises";
import { fal } from "@fal-ai/client";

const server = process.env.DARKROOM_SERVER;
fal.config({
  credentials: process.env.DARKROOM_KEY,
  requestMiddleware: async (request) => ({
    ...request,
    url: request.url
      .replace(/^https:\/\/(queue\.)?fal\.run/, (_, queue) => server + (queue ? "/fal/queue" : "/fal/run"))
      .replace("https://rest.fal.ai", server + "/fal/rest"),
  }),
});

const { data } = await fal.subscribe("fal-ai/flux/dev", {
  input: { prompt: "a red fox asleep", image_size: "square_hd", output_format: "png" },
});
await writeFile("fox.png", Buffer.from(await (await fetch(data.images[0].url)).arrayBuffer()));

// A Blob is uploaded by the client itself.
const fox = new Blob([await readFile("fox.png")], { type: "image/png" });
const edited = await fal.subscribe("fal-ai/nano-banana/edit", {
  input: { prompt: "put it in the snow", image_urls: [fox] },
});
console.log(edited.data.images[0].url);
