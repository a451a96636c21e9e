// Asks verifiers that are not ours whether they accept messages.
//
// Standard input: a JSON list of {headers, body, secret, late}; `late` is how many seconds after now each is verified.
// Standard output: for each, {standardwebhooks, openai}, where each is {accepted: event} or {refused: why}.
// An error that is not a verifier's refusal ends this with a trace.

import { readFileSync } from "node:fs";
import { webcrypto } from "node:crypto";
import OpenAI, { InvalidWebhookSignatureError } from "openai";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

globalThis.crypto ??= webcrypto; // a global of its own only since Node.js 19

const openai = new OpenAI({ apiKey: "unused" });
const verifiers = {
  standardwebhooks: ({ headers, body, secret }) => new Webhook(secret).verify(body, headers),
  openai: ({ headers, body, secret }) => openai.webhooks.unwrap(body, headers, secret),
};

async function judge(verify, message) {
  try {
    return { accepted: await verify(message) };
  } catch (error) {
    if (error instanceof InvalidWebhookSignatureError || error instanceof WebhookVerificationError) {
      return { refused: error.message };
    }
    throw error;
  }
}

const now = Date.now;
const verdicts = [];
for (const message of JSON.parse(readFileSync(0, "utf8"))) {
  Date.now = () => now() + message.late * 1000;
  const verdict = {};
  for (const [name, verify] of Object.entries(verifiers)) verdict[name] = await judge(verify, message);
  verdicts.push(verdict);
}
console.log(JSON.stringify(verdicts));
