// Runs the model apart from the page, so that the page never waits for it.
// Messages to it: {open: {engine, image, context}}, {ask: {prompt, options, id}}, {stop: true}.
// From it: {opened: about the model}, {piece: {id, piece}}, {ended: {id, stop}}, {failed: message}.
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
  const pieces = model.generate(prompt, options);
  for (;;) {
    const { done, value } = pieces.next();
    if (done) return postMessage({ ended: { id, stop: value.stop } });
    postMessage({ piece: { id, piece: value } });
    await breathe();
    if (mine !== running) return postMessage({ ended: { id, stop: "stopped" } });
  }
}

onmessage = async ({ data: { open, ask, stop } }) => {
  try {
    if (stop) running += 1;
    if (open) {
      model = undefined;
      model = await Model.open(open.engine, open.image, { context: open.context });
      postMessage({ opened: model.about });
    }
    if (ask) await answer(ask);
  } catch (error) {
    postMessage({ failed: error.message });
  }
};
