// Runs a WebAssembly module in node: node wasm.mjs MODULE [INSTRUCTION-SET-NUMBER]
// The program of this folder, or the tests of core; where one of those fails it aborts, and node says where.
import { readFile } from "node:fs/promises";

const [, , file, isa] = process.argv;
let memory;
const host = {
  write: (text, length) => process.stdout.write(new Uint8Array(memory.buffer, text, length)),
  nanoseconds: () => process.hrtime.bigint(),
};
const { instance } = await WebAssembly.instantiate(await readFile(file), { host });
memory = instance.exports.memory;
const { probe, main } = instance.exports;
process.exitCode = probe ? probe(Number(isa ?? 0)) : main(0, 0);
