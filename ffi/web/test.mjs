// Generates in node what the page would: node test.mjs ENGINE.wasm MODEL.sllm
// Writes greedy continuations of the prompts given on standard input, one a line; before that, what must be
// refused is tried.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { Model } from "./shadowllm.js";

const [, , engine, file] = process.argv;
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
assert.equal([...small.generate("a", { temperature: 0 })].length, 8);

const model = await Model.open(module, image);
const texts = [];
for await (const chunk of process.stdin) texts.push(chunk);
for (const prompt of Buffer.concat(texts).toString().split("\n").filter(Boolean)) {
  const read = (options) => {
    const pieces = [...model.generate(prompt, { most: 24, temperature: 0, ...options })];
    return { text: pieces.map((p) => p.text).join(""), bytes: pieces.at(-1).bytes };
  };
  const [whole, half] = [read({}), read({ density: 0.5 })];
  assert.ok(half.bytes < whole.bytes, `${half.bytes} of ${whole.bytes} bytes`);
  // The conversation before leaves no trace.
  assert.deepEqual(read({}), whole);
  console.log(prompt + whole.text);
}
