// Follows streams with npm's openai, as a user of it does.
//
// Environment: BASE_URL, API_KEY. Standard input: {prompt}. Standard output: for each way, what came of it: the text that the pieces add
// up to, the text at the end, the numbers of the events.

import { readFileSync } from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const { prompt } = JSON.parse(readFileSync(0, "utf8"));
const messages = [{ role: "user", content: prompt }];

async function follow(stream, most = Infinity) {
  const found = { id: null, text: "", final: null, numbers: [], types: [] };
  for await (const event of stream) {
    if (event.response) found.id = event.response.id;
    if (event.type === "response.output_text.delta") found.text += event.delta;
    if (event.type === "response.completed") found.final = event.response.output[0].content[0].text;
    found.numbers.push(event.sequence_number);
    found.types.push(event.type);
    if (found.numbers.length === most) break;
  }
  return found;
}

const answers = {};
answers.created = await follow(await client.responses.create({ model: "sim", input: prompt, stream: true }));
answers.background = await follow(
  await client.responses.create({ model: "sim", input: prompt, stream: true, background: true }),
);
answers.dropped = await follow(
  await client.responses.create({ model: "sim", input: prompt, stream: true, background: true }),
  5,
);
answers.resumed = await follow(
  await client.responses.retrieve(answers.dropped.id, { stream: true, starting_after: answers.dropped.numbers.at(-1) }),
);
const helper = client.responses.stream({ model: "sim", input: prompt });
answers.helped = { final: (await helper.finalResponse()).output_text };
const again = client.responses.stream({ response_id: answers.created.id });
answers.replayed = { final: (await again.finalResponse()).output_text };

const chunks = await client.chat.completions.create({ model: "sim", messages, stream: true });
answers.chat = { text: "" };
for await (const chunk of chunks) answers.chat.text += chunk.choices[0]?.delta?.content ?? "";
answers.chat_helped = { text: await client.chat.completions.stream({ model: "sim", messages }).finalContent() };

answers.failed = await client.chat.completions
  .create({ model: "sim-breaks-9", messages, stream: true })
  .then(async (stream) => {
    for await (const _ of stream);
    return { code: null };
  })
  .catch((error) => ({ code: error.code }));
console.log(JSON.stringify(answers));
