// Runs the model apart from the page, so that the page never waits for it.
// Messages to it: {open: {engine, image, context}}, {ask: {prompt, options, id}}, {stop: true}.
// From it: {opened: {bytes}}, {piece: {id, text, token, bytes}}, {ended: {id}}, {failed: message}.
import { Model } from "./shadowllm.js";

let model;
let running = 0;

// Lets messages arrive: by a message of its own, which comes at once; browsers delay timers by 4 ms.
const [channel, waiting] = [new MessageChannel(), []];
channel.port1.onmessage = () => waiting.shift()();
const breathe = () => new Promise((resolve) => {
  waiting.push(resolve);
  channel.port2.postMessage(null);
});

async function answer({ prompt, options, id }) {
  const mine = ++running;
  for (const piece of model.generate(prompt, options)) {
    postMessage({ piece: { id, ...piece } });
    await breathe();
    if (mine !== running) break;
  }
  postMessage({ ended: { id } });
}

onmessage = async ({ data: { open, ask, stop } }) => {
  try {
    if (stop) running += 1;
    if (open) {
      model = undefined;
      model = await Model.open(open.engine, open.image, { context: open.context });
      postMessage({ opened: { bytes: open.image.length } });
    }
    if (ask) await answer(ask);
  } catch (error) {
    postMessage({ failed: error.message });
  }
};
