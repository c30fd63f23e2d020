import { writeFile } from "node:fs/promises";

const server = process.env.DARKROOM_SERVER;
const headers = { Authorization: `Bearer ${process.env.DARKROOM_KEY}` };

async function ask(path, options = {}) {
  const answer = await fetch(server + path, { ...options, headers: { ...headers, ...options.headers } });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer;
}

const body = JSON.stringify({ prompt: "a red fox asleep", size: "1024x1024" });
let task = await (await ask("/api/images/generate", {
  method: "POST", body, headers: { "Content-Type": "application/json" },
})).json();
while (!["succeeded", "failed", "cancelled"].includes(task.status)) {
  task = await (await ask(`/api/images/tasks/${task.id}?wait=30`)).json();
}
if (task.error) throw new Error(task.error.code);
for (const { index } of task.images) {
  const image = await ask(`/api/images/tasks/${task.id}/image?index=${index}`);
  await writeFile(`fox-${index}.png`, Buffer.from(await image.arrayBuffer()));
}
