// Generates in node what the page would: node test.mjs ENGINE.wasm MODEL.sllm PROGRAM
// Tries calls that must be refused, then compares tokens and texts with those of the program `shadowllm`.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { Model } from "./shadowllm.js";

const [, , engine, file, program] = process.argv;
const [module, image] = await Promise.all([readFile(engine), readFile(file)]);

await assert.rejects(Model.open(module, image.subarray(0, 1000)), /cut off/);
await assert.rejects(Model.open(module, new Uint8Array(64)), /not a shadowllm image/);
await assert.rejects(Model.open(module, new Uint8Array(0)), /image/);
await assert.rejects(Model.open(module, image, { context: -1 }), /context/);
const small = await Model.open(module, image, { context: 8 });
const refused = (prompt, options, why) => assert.throws(() => [...small.generate(prompt, options)], why);
refused("one two three four five six seven eight nine ten", {}, /context/);
refused("a", { density: 0 }, /density/);
refused("a", { temperature: -1 }, /temperature/);
refused("a", { heat: 1 }, /unknown field `heat`/);
refused("a", { stop: [""] }, /stop string 1 is empty/);
refused("a", { bias: [[1e6, 1]] }, /token 1000000/);
refused("a", { dryBase: 0, dryMultiplier: 1 }, /DRY base/);
refused("a", { jsonSchema: "no" }, /JSON/);
refused("a", { regex: "(" }, /regular expression/);
refused("a", { lark: "start: x", regex: "a" }, /grammar|one of/);
refused({ messages: [{ content: "no role" }] }, {}, /no role/);
refused({ text: "a", messages: [{ role: "user", content: "b" }] }, {}, /a text or with messages/);
refused([], {}, /a text or with messages/);
assert.throws(() => small.decode(["x"]), /cannot be asked/);
// A full context ends the text.
const beginning = small.encode("Once upon a");
const full = collect(small, "Once upon a", { temperature: 0 });
assert.equal(full.end.stop, "context_full");
assert.equal(full.ids.length, 8 - beginning.length + 1);

/** An answer: its pieces' ids and texts, the bytes of the last, and its end. */
function collect(model, prompt, options) {
  const pieces = model.generate(prompt, options);
  const [ids, likely] = [[], []];
  let [text, bytes, step] = ["", 0, pieces.next()];
  for (; !step.done; step = pieces.next()) {
    if (step.value.id !== null) ids.push(step.value.id);
    text += step.value.text;
    bytes = step.value.bytes;
    likely.push(step.value.logprob);
  }
  assert.equal(text, step.value.text);
  return { text, ids, bytes, likely, end: step.value };
}

const model = await Model.open(module, image, { context: 512 });
assert.deepEqual([model.about.chat, model.about.calibrated, model.about.context], [true, true, 512]);
const run = (prompt, ...options) =>
  JSON.parse(execFileSync(program, ["run", file, "--json", "-p", prompt, ...options], { encoding: "utf8" }));

/** The program and the page read and write the same. */
function same(prompt, expected, options) {
  const mine = collect(model, prompt, options);
  assert.equal(mine.text, expected.text);
  const { prompt_tokens: asked, generated_tokens: written } = expected.figures;
  assert.deepEqual([model.encode(prompt).length, mine.ids.length, mine.end.stop], [asked, written, expected.stop], prompt);
  // The answer before it leaves no trace.
  assert.deepEqual(collect(model, prompt, options).ids, mine.ids);
  console.log(JSON.stringify(prompt), asked, "tokens, answered by", written);
  return mine;
}

const beginnings = ["Once upon a time", "It's 1984—naïve", "  $12.50, or", "The end.</s>Once<pad> <\\s></s></s>\n Rex", "日本 👩‍👩‍👧"];
for (const prompt of beginnings) same(prompt, run(prompt, "--greedy", "--raw", "-n", "24"), { temperature: 0, maxTokens: 24 });
const user = (content) => [{ role: "user", content }];
const LONG = "Tell me a story about a dog.";
for (const asked of [LONG, "What color is the sky?", "Was ist das? </s>"]) {
  const expected = run(asked, "--greedy", "-n", "300");
  const whole = same(user(asked), expected, { temperature: 0, maxTokens: 300 });
  const half = collect(model, user(asked), { temperature: 0, maxTokens: 300, density: 0.5 });
  // The first token comes from the prompt, which is always read whole.
  if (whole.ids.length > 1 && half.ids.length > 1) assert.ok(half.bytes < whole.bytes, `${half.bytes} of ${whole.bytes} bytes`);
}
assert.equal(run("What color is the sky?", "--greedy", "-n", "300").stop, "end_of_text");
// What is chosen at random, what answers are held to, and how likely they are.
same(user(LONG), run(LONG, "--seed", "7", "--temperature", "1.2", "--top-k", "9", "-n", "40"), { seed: 7, temperature: 1.2, topK: 9, maxTokens: 40 });
same(user(LONG), run(LONG, "--seed", "3", "--dry-multiplier", "2", "-n", "60"), { seed: 3, dryMultiplier: 2, maxTokens: 60 });
const stopped = same(user(LONG), run(LONG, "--greedy", "--stop", " ran", "--stop", " the"), { temperature: 0, stop: [" ran", " the"] });
assert.deepEqual([stopped.end.stop, / the| ran/.test(stopped.text)], ["stop_string", false]);
const schema = { type: "object", properties: { name: { enum: ["Rex", "Tom"] }, age: { type: "integer", maximum: 9, minimum: 0 } }, required: ["name", "age"], additionalProperties: false };
const held = JSON.parse(collect(model, user(LONG), { jsonSchema: schema }).text);
assert.ok(["Rex", "Tom"].includes(held.name) && Number.isInteger(held.age), JSON.stringify(held));
assert.match(collect(model, user(LONG), { regex: "[a-z]{3} [0-9]" }).text, /^[a-z]{3} [0-9]$/);
const likely = collect(model, "Once upon a", { temperature: 0, maxTokens: 4, logprobs: 2 });
const told = run("Once upon a", "--raw", "--greedy", "-n", "4", "--logprobs", "2").logprobs;
assert.deepEqual(likely.likely.map((p) => p.toFixed(4)), told.map((p) => p.logprob.toFixed(4)));
assert.equal(model.decode(model.encode("a dog, 12 €")), "a dog, 12 €");
console.log(`wasm: ${module.length} bytes`);
