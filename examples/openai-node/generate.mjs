// The OpenAI client, pointed at Darkroom: only baseURL differs. npm install openai
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: process.env.DARKROOM_SERVER + "/v1", apiKey: process.env.DARKROOM_KEY });

const made = await client.images.generate({ model: "gpt-image-2", prompt: "a red fox asleep", size: "1024x1024" });
await writeFile("fox.png", Buffer.from(made.data[0].b64_json, "base64"));

const edited = await client.images.edit({
  model: "gpt-image-2", prompt: "put it in the snow",
  image: await toFile(createReadStream("fox.png"), "fox.png", { type: "image/png" }),
});
await writeFile("snow.png", Buffer.from(edited.data[0].b64_json, "base64"));
