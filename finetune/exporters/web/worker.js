"use strict"; // computes in a thread of its own, so that the page stays responsive
let ort, session, last = Promise.resolve();
onmessage = ({ data }) => { last = last.then(() => data.onnx ? load(data) : run(data)).catch(({ message }) => postMessage({ error: message })); };

async function load({ runtime, wasm, onnx }) {
  ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm }); // threads need headers that a file does not have
  session = await ort.InferenceSession.create(onnx, { executionProviders: ["wasm"] });
  postMessage({});
}

async function run({ pixels, sides }) {
  const start = performance.now();
  const images = new ort.Tensor("uint8", pixels, [1, pixels.length / sides[0] / sides[1], ...sides]);
  const { classes } = await session.run({ images });
  postMessage({ classes: classes.data, isMasks: classes.dims.length === 4, time: performance.now() - start });
}
