// A model in a page, or in node: WebAssembly (shadowllm_web.wasm) behind one class.
import { Tokenizer } from "./tokenizer.js";

/** A question in the form of the chat template of the model that ships. Templates of other models, which are programs,
 * are not run here. @param {string} text @returns {[string, string]} special tokens, and text */
export const question = (text) => ["</s>", `Question: ${text}\nAnswer:`];

export class Model {
  #wasm;
  #tokens;
  #chosen;
  #context;

  /** Opens an image.
   * @param {BufferSource | WebAssembly.Module} module the engine
   * @param {Uint8Array} image the model, as `shadowllm pack` writes it
   * @param {{context?: number}} options tokens that prompt and answer may have together
   * @returns {Promise<Model>} */
  static async open(module, image, { context = 256 } = {}) {
    const compiled = module instanceof WebAssembly.Module ? module : await WebAssembly.compile(module);
    const { exports } = await WebAssembly.instantiate(compiled, {});
    return new Model(exports, image, context);
  }

  constructor(wasm, image, context) {
    this.#wasm = wasm;
    const at = this.#allocate(image.length);
    new Uint8Array(wasm.memory.buffer, at, image.length).set(image);
    this.#check(wasm.open(at, image.length, context));
    this.#context = wasm.room();
    this.#tokens = this.#allocate(4 * this.#context);
    this.#chosen = this.#allocate(4);
    this.tokenizer = new Tokenizer(JSON.parse(this.#text(wasm.tokenizer_text(), wasm.tokenizer_length())));
  }

  #allocate(length) {
    const at = this.#wasm.allocate(length) >>> 0;
    if (at === 0) throw new Error(`${length} bytes of memory are not available`);
    return at;
  }

  #text(at, length) {
    return new TextDecoder().decode(new Uint8Array(this.#wasm.memory.buffer, at >>> 0, length));
  }

  #check(status) {
    if (status !== 0) throw new Error(this.#text(this.#wasm.message(), this.#wasm.message_length()));
  }

  /** Ids of a prompt: a text, or special tokens and a text. What people type is text, whatever it looks like.
   * @param {string | [string, string]} prompt @returns {number[]} */
  encode(prompt) {
    const [special, text] = Array.isArray(prompt) ? prompt : ["", prompt];
    return [...this.tokenizer.encode(special), ...this.tokenizer.encode(text, true)];
  }

  /** Continues a prompt, a piece at a time.
   * @param {string | [string, string]} prompt
   * @param {{most?: number, temperature?: number, topP?: number, repetitionPenalty?: number, seed?: number,
   *   density?: number}} options `temperature` 0 takes the likeliest; `density` is the share of what can be skipped
   *   that is read, 1 all
   * @returns {Generator<{text: string, bytes: number}>} `bytes` of weights were read for it */
  *generate(prompt, options = {}) {
    const { most = 64, temperature = 0.8, topP = 0.95, repetitionPenalty = 1, seed = 0, density = 1 } = options;
    const wasm = this.#wasm;
    const ids = this.encode(prompt);
    if (ids.length > this.#context) {
      throw new Error(`the prompt has ${ids.length} tokens, and there is room for ${this.#context}`);
    }
    this.#check(wasm.restart());
    this.#check(wasm.set_density(density));
    this.#check(wasm.set_sampler(temperature, topP, repetitionPenalty, seed));
    new Uint32Array(wasm.memory.buffer, this.#tokens, ids.length).set(ids);
    this.#check(wasm.prefill(this.#tokens, ids.length));
    const decode = this.tokenizer.decoder();
    for (let n = 0; n < most; n++) {
      this.#check(wasm.choose(this.#chosen));
      const [token] = new Uint32Array(wasm.memory.buffer, this.#chosen, 1);
      if (wasm.is_end(token)) return;
      yield { text: decode(token), bytes: wasm.bytes_read() };
      if (n + 1 === most || wasm.room() === 0) return;
      this.#check(wasm.decode(token));
    }
  }
}
