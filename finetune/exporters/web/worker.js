"use strict"; // computes in a thread of its own, so that the page stays responsive
let ort, session, last = Promise.resolve();
onmessage = ({ data }) => {
  last = last.then(() => data.onnx ? load(data) : run(data)).catch(({ message }) => ({ error: message })).then((answer) => postMessage(answer));
};
async function load({ runtime, wasm, onnx }) {
  ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm }); // threads need headers that a file does not have
  session = await ort.InferenceSession.create(onnx, { executionProviders: ["wasm"] });
  return {};
}
async function run({ pixels, sides }) {
  const start = performance.now(), shape = [1, pixels.length / sides[0] / sides[1], ...sides];
  const { classes } = await session.run({ images: new ort.Tensor("uint8", pixels, shape) });
  return { classes: classes.data, isMasks: classes.dims.length === 4, time: performance.now() - start };
}
