// A model in a page, or in node: WebAssembly (shadowllm_web.wasm) behind one class.
import { system } from "./system.js";

/** @typedef {string | {role: string, content: string}[] | {messages: object[], variables?: object, controlTokens?: boolean}
 *   | {text: string, controlTokens?: boolean}} Prompt a text to continue, or messages to answer by the model's chat template;
 *   `variables` are for the template (tools, documents, enable_thinking). What people type is text, whatever it looks like,
 *   unless `controlTokens` is set */

/** @typedef {object} Options
 * @property {number} [maxTokens] 256
 * @property {number} [density] the share of what can be skipped that is read; 1 is all
 * @property {number} [temperature] .8; 0 takes the likeliest
 * @property {number} [topK] 40 @property {number} [topP] .95 @property {number} [minP] .05 @property {number} [seed] 0
 * @property {number} [repetitionPenalty] @property {number} [presencePenalty] @property {number} [frequencyPenalty]
 * @property {number} [dryMultiplier] @property {number} [dryBase] @property {number} [dryAllowedLength]
 * @property {number} [dryLast] the penalty of repetitions ("DRY")
 * @property {string[]} [stop] texts before which the answer ends
 * @property {[number, number | null][]} [bias] tokens and what is added to their logits; null rules out
 * @property {number} [logprobs] log-probabilities, with this number of the likeliest tokens
 * @property {object | string} [jsonSchema] the form of the answer, or else
 * @property {string} [regex] or @property {string} [lark] */

/** @typedef {object} Piece
 * @property {string} text @property {number | null} id its token; null for text that was held back until the end
 * @property {number} bytes of weights that were read for it @property {boolean} thought whether the model thinks here
 * @property {number | null} logprob @property {[number, number][] | null} top the likeliest tokens */

export class Model {
  #wasm;
  #lost = "";
  /** @type {{bytes: number, context: number, layers: number, vocabulary: number, chat: boolean, calibrated: boolean}} */
  about;

  /** Opens an image.
   * @param {BufferSource | WebAssembly.Module} module the engine
   * @param {Uint8Array} image the model, as `shadowllm pack` writes it
   * @param {{context?: number}} options tokens that prompt and answer may have together
   * @returns {Promise<Model>} */
  static async open(module, image, { context = 0 } = {}) {
    const compiled = module instanceof WebAssembly.Module ? module : await WebAssembly.compile(module);
    let wasm;
    const { exports } = await WebAssembly.instantiate(compiled, system(compiled, () => wasm.memory));
    wasm = exports;
    wasm._initialize?.();
    return new Model(wasm, image, context);
  }

  /** Use `Model.open`. */
  constructor(wasm, image, context) {
    this.#wasm = wasm;
    if (!Number.isInteger(context) || context < 0) throw new Error("the context is a number of tokens");
    const at = this.#write(image);
    this.about = this.#call("open", at, image.length, context);
  }

  #write(bytes) {
    const at = this.#wasm.allocate(bytes.length) >>> 0;
    if (at === 0) throw new Error(`${bytes.length} bytes of memory are not available`);
    new Uint8Array(this.#wasm.memory.buffer, at, bytes.length).set(bytes);
    return at;
  }

  #result() {
    const [at, length] = [this.#wasm.result() >>> 0, this.#wasm.result_length()];
    return new TextDecoder().decode(new Uint8Array(this.#wasm.memory.buffer, at, length));
  }

  /** Calls a function of the module. */
  #call(name, ...values) {
    if (this.#lost) throw new Error(`the model must be opened again: ${this.#lost}`);
    let failed;
    try {
      failed = this.#wasm[name](...values);
    } catch (trap) {
      this.#lost = this.#result() || trap.message;
      throw new Error(this.#lost);
    }
    const told = this.#result();
    if (failed) throw new Error(told);
    return JSON.parse(told);
  }

  /** The same with a value as JSON. */
  #ask(name, value) {
    const bytes = new TextEncoder().encode(JSON.stringify(value));
    const at = this.#write(bytes);
    try {
      return this.#call(name, at, bytes.length);
    } finally {
      if (!this.#lost) this.#wasm.release(at, bytes.length);
    }
  }

  /** Ids of a prompt. @param {Prompt} prompt @returns {number[]} */
  encode(prompt) {
    return this.#ask("encode", asked(prompt));
  }

  /** Text of ids, without control tokens. @param {number[]} ids @returns {string} */
  decode(ids) {
    return this.#ask("decode", ids);
  }

  /** Answers messages or continues a text, a piece at a time; returns the whole answer with its figures and why it ended.
   * Stopping early (`break`) is allowed. Every prompt begins anew.
   * @param {Prompt} prompt @param {Options} options
   * @returns {Generator<Piece, {text: string, thoughts: string, answer: string, stop: string, stopString: number | null,
   *   figures: object}>} */
  *generate(prompt, options = {}) {
    this.#ask("begin", { prompt: asked(prompt), ...options });
    for (let piece; (piece = this.#call("next")); ) yield piece;
    return this.#call("end");
  }
}

/** A prompt as the module reads it. */
function asked(prompt) {
  if (typeof prompt === "string") return { text: prompt };
  return Array.isArray(prompt) ? { messages: prompt } : prompt;
}
