// npm's openai on files and batches: uploads the lines on standard input, waits for the batch, and prints what came of it; then the
// same with the lines of a second file, whose batch is cancelled while it runs.
// Arguments: the API's address, its key, the second file.
import { createReadStream } from "node:fs";
import { text } from "node:stream/consumers";
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, running] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

function start(file) {
  return client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
  });
}

async function until(batch, reached) {
  const deadline = Date.now() + 40_000;
  while (!reached(batch) && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

const ended = (batch) => ["completed", "failed", "expired", "cancelled"].includes(batch.status);
const contentOf = async (id) => (id ? await (await client.files.content(id)).text() : "");

const lines = await text(process.stdin);
const file = await client.files.create({ file: await toFile(Buffer.from(lines), "lines.jsonl"), purpose: "batch" });
const batch = await until(await start(file), ended);
const listed = [];
for await (const one of client.batches.list({ limit: 1 })) {
  listed.push(one.id);
  if (listed.length >= 2) break;
}
const content = await contentOf(batch.output_file_id);
let refused = null;
try {
  await client.batches.cancel(batch.id);
} catch (error) {
  refused = { name: error.constructor.name, status: error.status, code: error.code };
}
const second = await client.files.create({ file: createReadStream(running), purpose: "batch" });
const begun = await until(await start(second), (batch) => batch.request_counts.completed > 0);
const cancelling = await client.batches.cancel(begun.id);
const cancelled = await until(cancelling, ended);
const found = { output: await contentOf(cancelled.output_file_id), errors: await contentOf(cancelled.error_file_id) };
console.log(
  JSON.stringify({ batch, listed, content, refused, filename: file.filename, begun, cancelling, cancelled, found }),
);
