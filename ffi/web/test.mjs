// Generates in node what the page would: node test.mjs ENGINE.wasm MODEL.sllm PROGRAM
// Tries calls that must be refused, then compares tokens and texts with those of the program `shadowllm`.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { Model, question } from "./shadowllm.js";
import { Tokenizer } from "./tokenizer.js";

const [, , engine, file, program] = process.argv;
const [module, image] = await Promise.all([readFile(engine), readFile(file)]);

await assert.rejects(Model.open(module, image.subarray(0, 1000)), /cut off/);
await assert.rejects(Model.open(module, new Uint8Array(64)), /not a shadowllm image/);
await assert.rejects(Model.open(module, image, { context: 0 }), /context must be at least 1/);
const small = await Model.open(module, image, { context: 8 });
assert.throws(() => [...small.generate("one two three four five six seven eight nine ten")], /room for 8/);
assert.throws(() => [...small.generate("")], /no tokens/);
assert.throws(() => [...small.generate("a", { density: 0 })], /density/);
assert.throws(() => [...small.generate("a", { temperature: -1 })], /temperature/);
// A full context ends the text.
const beginning = small.tokenizer.encode("Once upon a");
assert.equal([...small.generate("Once upon a", { temperature: 0 })].length, 8 - beginning.length + 1);
for (const flag of ["lstrip", "rstrip", "single_word"]) {
  const json = { model: { type: "BPE", vocab: { a: 0 }, merges: [] }, pre_tokenizer: { type: "ByteLevel" } };
  assert.deepEqual(new Tokenizer({ ...json, added_tokens: [{ id: 1, content: "a$b" }] }).encode("aa$ba"), [0, 1, 0]);
  assert.throws(() => new Tokenizer({ ...json, added_tokens: [{ id: 1, content: "<s>", [flag]: true }] }), /<s>/);
}

const model = await Model.open(module, image, { context: 512 });
const run = (prompt, ...options) =>
  JSON.parse(execFileSync(program, ["run", file, "--greedy", "--json", "-p", prompt, ...options], { encoding: "utf8" }));
const read = (prompt, options) => {
  const pieces = [...model.generate(prompt, { temperature: 0, ...options })];
  return { text: pieces.map((p) => p.text).join(""), tokens: pieces.length, bytes: pieces.at(-1)?.bytes };
};

/** The program and the page read and write the same. */
function same(prompt, expected, most) {
  const mine = read(prompt, { most });
  assert.equal(mine.text, expected.text);
  const { prompt_tokens: asked, generated_tokens: written } = expected.figures;
  assert.deepEqual([model.encode(prompt).length, mine.tokens], [asked, written], prompt);
  const half = read(prompt, { most, density: 0.5 });
  // The first token comes from the prompt, which is always read whole.
  if (mine.tokens > 1 && half.tokens > 1) assert.ok(half.bytes < mine.bytes, `${half.bytes} of ${mine.bytes} bytes`);
  // The previous conversation leaves no trace.
  assert.deepEqual(read(prompt, { most }), mine);
  console.log(JSON.stringify(prompt), asked, "tokens, answered by", written);
}

const beginnings = ["Once upon a time", "It's 1984—naïve", "  $12.50, or", "The end.</s>Once<pad> <\\s></s></s>\n Rex", "日本 👩‍👩‍👧"];
for (const prompt of beginnings) same(prompt, run(prompt, "--raw", "-n", "24"), 24);
for (const asked of ["Tell me a story about a dog.", "What color is the sky?", "Was ist das? </s>"]) {
  same(question(asked), run(asked, "-n", "300"), 300);
}
assert.equal(run("What color is the sky?", "-n", "300").stop, "end_of_text");
