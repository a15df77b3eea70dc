// The page: what is typed goes to the worker, and what the worker writes is shown.
const form = document.forms[0];
const at = (id) => document.getElementById(id);
const [status, bar] = [at("status"), document.querySelector("progress")];
const [dense, sparse] = [
  { text: at("dense"), figures: at("dense-figures"), section: at("dense").parentElement },
  { text: at("answer"), figures: at("figures"), section: at("answer").parentElement },
];
const say = (state, text) => {
  status.dataset.state = state;
  status.textContent = text;
};

const worker = new Worker("worker.js", { type: "module" });
let waiting; // for the end of what the worker does now: {resolve, reject, piece}
const call = (message, transfer = [], piece = () => {}) =>
  new Promise((resolve, reject) => {
    waiting = { resolve, reject, piece };
    worker.postMessage(message, transfer);
  });
worker.onmessage = ({ data }) => {
  if (data.piece) waiting.piece(data.piece);
  else if (data.failed) waiting.reject(new Error(data.failed));
  else waiting.resolve(data.opened ?? data.ended);
};
worker.onerror = (event) => waiting?.reject(new Error(event.message ?? "the worker cannot be started"));

/** A file of the server, with its progress. */
async function load(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("Content-Length"));
  const chunks = [];
  let done = 0;
  for await (const chunk of response.body) {
    chunks.push(chunk);
    done += chunk.length;
    bar.value = total ? done / total : 0;
    say("loading", `Loading the model: ${(done / 1e6).toFixed(1)}${total ? ` of ${(total / 1e6).toFixed(1)}` : ""} MB`);
  }
  const bytes = new Uint8Array(done);
  let place = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, place);
    place += chunk.length;
  }
  return bytes;
}

let engine; // compiled once
let model; // what there is to say of it
async function open(image) {
  engine ??= await WebAssembly.compile(await load("shadowllm_web.wasm"));
  model = await call({ open: { engine, image, context: 2048 } }, [image.buffer]);
  bar.hidden = true;
  form.ask.disabled = false;
  say("ready", `Ready: a model of ${(model.bytes / 1e6).toFixed(1)} MB`);
}

/** Writes one answer, and returns its tokens and why it ended. With `other`, the tokens that differ from its are marked. */
async function write(place, options, other) {
  const typed = form.prompt.value;
  const prompt = model.chat ? [{ role: "user", content: typed }] : typed;
  const [start, pieces] = [performance.now(), []];
  place.text.textContent = place.figures.textContent = "";
  let differs = false;
  const { stop } = await call({ ask: { prompt, options, id: start } }, [], ({ piece: { text, id, bytes, thought } }) => {
    const shown = place.text.textContent ? text : text.trimStart();
    if (id !== null) {
      differs ||= other !== undefined && other[pieces.length] !== id;
      pieces.push(id);
    }
    const part = differs ? "mark" : thought ? "i" : "";
    place.text.append(part ? Object.assign(document.createElement(part), { textContent: shown }) : shown);
    place.text.normalize();
    const rate = (1000 * pieces.length) / (performance.now() - start);
    place.figures.textContent = `${pieces.length} tokens, ${rate.toFixed(0)} a second, ${(bytes / 1e6).toFixed(2)} MB of weights read for the last`;
  });
  return { pieces, stop };
}

/** Why an answer ended, where its end is not the model's. */
const ENDS = {
  length: "cut off there: raise Tokens for more",
  context_full: "cut off there: the model has no room for more",
  stop_string: "ended at the text to stop at",
  stopped: "stopped",
};

async function run() {
  if (!form.prompt.value.trim()) return say("ready", "Type a question first");
  const options = {};
  for (const name of ["density", "temperature", "maxTokens"]) options[name] = Number(form[name].value);
  if (form.until.value) options.stop = [form.until.value];
  form.ask.disabled = true;
  form.stop.disabled = false;
  dense.section.hidden = !form.beside.checked;
  at("name").textContent = form.beside.checked ? `Density ${form.share.value}` : "Answer";
  say("running", "Writing");
  try {
    const beside = form.beside.checked ? (await write(dense, { ...options, density: 1 })).pieces : undefined;
    const { pieces, stop } = await write(sparse, options, beside);
    const same = beside?.findIndex((id, i) => id !== pieces[i]);
    const told = beside ? (same < 0 ? ", the same as with all weights" : `, the first ${same} as with all weights`) : "";
    say("done", `${pieces.length} tokens${told}${ENDS[stop] ? `; ${ENDS[stop]}` : ""}`);
  } finally {
    form.ask.disabled = false;
    form.stop.disabled = true;
  }
}

const fail = (error) => say("failed", `Error: ${error.message}`);
form.density.oninput = () => (form.share.value = `${Math.round(100 * form.density.value)} %`);
form.stop.onclick = () => worker.postMessage({ stop: true });
form.prompt.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!form.ask.disabled) form.requestSubmit(form.ask);
};
form.onsubmit = (event) => {
  event.preventDefault();
  run().catch(fail);
};
form.file.onchange = async () => {
  const [file] = form.file.files;
  if (!file) return;
  form.ask.disabled = true;
  try {
    await open(new Uint8Array(await file.arrayBuffer()));
    const does = model.chat ? "answers questions" : "continues a text: it has no chat template";
    const dial = model.calibrated ? "" : " It is not calibrated, so a low density costs more.";
    at("about").textContent = `${file.name} ${does}.${dial}`;
  } catch (error) {
    fail(error);
  }
};

try {
  await open(await load("model.sllm"));
  // index.html?prompt=...&density=...&temperature=...&maxTokens=...&until=...&beside begins by itself.
  const query = new URLSearchParams(location.search);
  for (const [name, value] of query) if (form.elements[name] && name !== "beside") form.elements[name].value = value;
  form.beside.checked = query.has("beside");
  form.density.oninput();
  if (query.has("prompt")) await run();
} catch (error) {
  fail(error);
}
