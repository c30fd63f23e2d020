// @fal-ai/client against a service: node fal_node.mjs BASE KEY. Prints one JSON line.
import { fal } from "@fal-ai/client";

const [base, key] = process.argv.slice(2);
fal.config({
  credentials: key,
  suppressLocalCredentialsWarning: true,
  requestMiddleware: async (request) => ({
    ...request,
    url: request.url
      .replace(/^https:\/\/(queue\.)?fal\.run/, (_, queue) => base + (queue ? "/fal/queue" : "/fal/run"))
      .replace("https://rest.fal.ai", base + "/fal/rest"),
  }),
});
const app = "fal-ai/gpt-image-1";
const seen = {};
const opens = async (url) => {
  const found = await fetch(url);
  return found.ok && found.headers.get("content-type").startsWith("image/");
};
const refusal = async (call) => {
  try {
    await call();
    return "accepted";
  } catch (error) {
    return [error.name, error.status, error.message, error.body?.error_type, error.requestId !== ""];
  }
};

for (const mode of ["polling", "streaming"]) {
  const updates = [];
  const { data, requestId } = await fal.subscribe(app, {
    input: { prompt: `a red fox, ${mode}`, image_size: "landscape_4_3" },
    mode,
    logs: true,
    pollInterval: 100,
    onQueueUpdate: (update) => updates.push(update.status),
  });
  seen[mode] = [data.images.length, await opens(data.images[0].url), requestId.length, updates.at(-1)];
}

const { request_id: requestId } = await fal.queue.submit(app, {
  input: { prompt: "a kite" },
  priority: "low",
  startTimeout: 60,
});
const stream = await fal.queue.streamStatus(app, { requestId, logs: true });
const states = [];
for await (const state of stream) states.push(state.status);
seen.stream = [states.at(-1), (await stream.done()).status];
seen.status = (await fal.queue.status(app, { requestId, logs: true })).status;
seen.result = (await fal.queue.result(app, { requestId })).data.images[0].content_type;
seen.cancel = await refusal(() => fal.queue.cancel(app, { requestId }));
seen.run = (await fal.run(app, { input: { prompt: "blue", num_images: 2, sync_mode: true } })).data.images.map((image) =>
  image.url.slice(0, 15),
);
seen.bad_input = await refusal(() => fal.queue.submit(app, { input: { prompt: 7, num_images: "two" } }));
seen.unknown = await refusal(() => fal.run("fal-ai/gpt-image-11", { input: { prompt: "x" } }));
seen.foreign = await refusal(() => fal.queue.result(app, { requestId: "01a2012e-a89e-15ea-a0e2-b680d4bb80da" }));
if (process.argv[4] === "blob") {
  const pixel = Buffer.from(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "base64",
  );
  const blob = new Blob([pixel], { type: "image/png" });
  seen.blob = (await fal.run(`${app}/edit-image`, { input: { prompt: "blue", image_urls: [blob] } })).data.images.length;
}
console.log(JSON.stringify(seen));
