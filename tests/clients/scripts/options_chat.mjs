// Models and chat completions by openai-node. Arguments: base URL, key. Prints one JSON line.
import OpenAI from 'openai';

const [base, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const messages = [{ role: 'user', content: 'a pier' }];

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
const alias = (await client.models.retrieve('dall-e-3')).id;
const missing = await client.models.retrieve('gpt-imag-2').then(() => null, (error) => error.code);
const whole = await client.chat.completions.create({ model: 'gpt-5.4-mini', messages, temperature: 0.2 });
let text = '';
for await (const chunk of await client.chat.completions.create({ model: 'gpt-5.4-mini', messages, temperature: 0.2, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? '';
}
let broken = null;
try {
  const stream = await client.chat.completions.create({
    model: 'gpt-5.4-mini', stream: true, messages: [{ role: 'user', content: 'a pier [sandbox:stream_error]' }],
  });
  for await (const _ of stream);
} catch (error) {
  broken = error.constructor.name;
}
const same = text === whole.choices[0].message.content && text.startsWith('a pier');
console.log(JSON.stringify({ models: ids.length, alias, missing, same, usage: whole.usage, broken }));
process.exit(same && alias === 'gpt-image-2' && missing === 'model_not_found' && broken ? 0 : 1);
