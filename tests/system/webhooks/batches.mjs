// npm's openai on files and batches: uploads the lines on standard input, waits for the batch, and prints what came of it.
// Arguments: the API's address, its key.
import { text } from "node:stream/consumers";
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const lines = await text(process.stdin);
const file = await client.files.create({ file: await toFile(Buffer.from(lines), "lines.jsonl"), purpose: "batch" });
let batch = await client.batches.create({
  input_file_id: file.id,
  endpoint: "/v1/chat/completions",
  completion_window: "24h",
});
const deadline = Date.now() + 60_000;
while (!["completed", "failed", "expired", "cancelled"].includes(batch.status) && Date.now() < deadline) {
  await new Promise((resolve) => setTimeout(resolve, 200));
  batch = await client.batches.retrieve(batch.id);
}
const listed = [];
for await (const one of client.batches.list({ limit: 1 })) {
  listed.push(one.id);
  if (listed.length >= 2) break;
}
const content = batch.output_file_id ? await (await client.files.content(batch.output_file_id)).text() : "";
let refused = null;
try {
  await client.batches.cancel(batch.id);
} catch (error) {
  refused = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify({ batch, listed, content, refused, filename: file.filename }));
