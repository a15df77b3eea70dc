// Byte-level BPE, as GPT-2 and OPT have it (arXiv 1508.07909 over bytes), from a tokenizer.json.

/** Bytes as the characters that stand for them in the vocabulary: printable ones for themselves. */
function byteCharacters() {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  const characters = [];
  let next = 256;
  for (let b = 0; b < 256; b++) characters.push(String.fromCharCode(printable(b) ? b : next++));
  return characters;
}

const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

const escape = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");

export class Tokenizer {
  #ids;
  #added = new Map();
  #parts;
  #tokens = [];
  #special = new Set();
  #ranks = new Map();
  #characters = byteCharacters();
  #bytes = new Map(this.#characters.map((c, b) => [c, b]));

  /** @param {object} json a parsed tokenizer.json; throws an Error where it is of another kind */
  constructor(json) {
    const { model, pre_tokenizer: words, normalizer, post_processor: post } = json;
    const plain = model?.type === "BPE" && !model.byte_fallback && !model.ignore_merges;
    if (!plain || words?.type !== "ByteLevel" || words.add_prefix_space || normalizer || post) {
      throw new Error("the page knows byte-level BPE tokenizers only, and this model has another");
    }
    this.#ids = new Map(Object.entries(model.vocab));
    for (const [token, id] of this.#ids) this.#tokens[id] = token;
    for (const { id, content, special, ...how } of json.added_tokens ?? []) {
      if (how.lstrip || how.rstrip || how.single_word) {
        throw new Error(`the page does not know tokens that depend on what is around them, as ${content} does`);
      }
      this.#added.set(content, id);
      this.#tokens[id] ??= content;
      if (special) this.#special.add(id);
    }
    // Longer ones first.
    const added = [...this.#added.keys()].sort((a, b) => b.length - a.length).map(escape);
    this.#parts = new RegExp(`(${added.join("|") || "(?!)"})`);
    model.merges.forEach((pair, rank) => this.#ranks.set(Array.isArray(pair) ? pair.join(" ") : pair, rank));
  }

  /** @param {string} text @param {boolean} plain whether the names of special tokens in it are text @returns {number[]} */
  encode(text, plain = false) {
    const parts = text.split(this.#parts);
    if (plain) {
      // As the program does: divided after the first letter of each name.
      const words = [parts[0]];
      for (let i = 1; i < parts.length; i += 2) {
        words[words.length - 1] += parts[i][0];
        words.push(parts[i].slice(1) + parts[i + 1]);
      }
      return words.flatMap((part) => this.#words(part));
    }
    return parts.flatMap((part, i) => (i % 2 ? this.#added.get(part) : this.#words(part)));
  }

  /** Ids of a text without special tokens. */
  #words(text) {
    const ids = [];
    for (const [word] of text.matchAll(WORDS)) {
      const bytes = new TextEncoder().encode(word);
      for (const token of this.#merge(Array.from(bytes, (b) => this.#characters[b]))) {
        const id = this.#ids.get(token);
        if (id === undefined) throw new Error(`the vocabulary has no token for ${JSON.stringify(token)}`);
        ids.push(id);
      }
    }
    return ids;
  }

  /** Joins the pair that was learned first until none is left. */
  #merge(parts) {
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.#ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  /** Turns tokens into text, one after the other: a character may take several. @returns {(id: number) => string} */
  decoder() {
    const utf8 = new TextDecoder();
    return (id) => {
      if (this.#special.has(id)) return "";
      const bytes = Uint8Array.from(this.#tokens[id] ?? "", (c) => this.#bytes.get(c));
      return utf8.decode(bytes, { stream: true });
    };
  }
}
