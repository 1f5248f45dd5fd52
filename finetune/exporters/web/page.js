"use strict";
const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const worker = new Worker(URL.createObjectURL(new Blob([$("worker").textContent], { type: "text/javascript" })));
const waiting = []; // for answers of the worker, in the order of the questions
const shown = facts.classes.map(() => true);
let shares = [], newest = 0, prediction = null, camera = null;

async function transform(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

async function unpack(id) {
  const text = atob($(id).textContent), bytes = new Uint8Array(text.length);
  $(id).remove(); // megabytes that nothing needs any more
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return transform(bytes, new DecompressionStream("gzip"));
}

function ask(message) {
  worker.postMessage(message);
  return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
}
worker.onmessage = ({ data }) => data.error ? waiting.shift().reject(new Error(data.error)) : waiting.shift().resolve(data);

const ready = Promise.all(["runtime", "wasm", "onnx"].map(unpack)).then(([runtime, wasm, onnx]) => ask({ runtime, wasm, onnx }));

function say(text, isProblem = false) {
  if ($("status").textContent !== text) $("status").textContent = text; // a screen reader reads each change
  $("status").className = isProblem ? "problem" : "";
}

function reduced(width, height) { // width and height that the model gets
  if (facts.size) return [facts.size[1], facts.size[0]];
  const scale = Math.min(1, Math.max(32, $("side").valueAsNumber || $("side").defaultValue) / Math.max(width, height));
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

function planes(rgba) { // channels first; gray as Pillow converts to it
  const count = rgba.length / 4, pixels = new Uint8Array(facts.channels * count);
  for (let i = 0; i < count; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    pixels[i] = facts.channels === 1 ? (19595 * r + 38470 * g + 7471 * b + 32768) >> 16 : r;
    if (facts.channels === 3) { pixels[count + i] = g; pixels[2 * count + i] = b; }
  }
  return pixels;
}

async function segment(source, name) {
  const mine = ++newest;
  await ready;
  const whole = await createImageBitmap(source, { colorSpaceConversion: "none" })
    .catch(() => { throw new Error(`${name} is no picture that this browser reads: choose a PNG, JPEG or WebP file.`); });
  const [width, height] = reduced(whole.width, whole.height);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, width, height);
  const pixels = planes(context.getImageData(0, 0, width, height).data);
  const found = await ask({ pixels, sides: [height, width] });
  if (mine !== newest) return; // another picture was chosen meanwhile
  prediction = { ...found, name, width, height, full: [whole.width, whole.height] };
  Object.assign($("picture"), { width, height }).getContext("2d").drawImage(canvas, 0, 0);
  $("stack").style.setProperty("--ratio", whole.width / whole.height);
  $("stack").className = "full";
  $("download").disabled = false;
  $("time").textContent = `${whole.width}x${whole.height} pixels, computed at ${width}x${height} in ${Math.round(found.time)} ms`;
  paint();
}

function paint() { // a pixel of several classes gets the mean of their colors
  if (!prediction) return;
  const { classes, isMasks, width, height } = prediction, count = width * height;
  const image = new ImageData(width, height), data = image.data, pixels = facts.classes.map(() => 0);
  for (let j = 0; j < classes.length; j++) {
    if (isMasks && !classes[j]) continue;
    const k = isMasks ? Math.floor(j / count) : classes[j], i = 4 * (j % count);
    pixels[k]++;
    if (!shown[k]) continue;
    data[i + 3]++; // number of classes, until it becomes the opacity
    for (let c = 0; c < 3; c++) data[i + c] += (facts.colors[k][c] - data[i + c]) / data[i + 3];
  }
  for (let i = 3; i < data.length; i += 4) data[i] = data[i] && 255;
  Object.assign($("overlay"), { width, height }).getContext("2d").putImageData(image, 0, 0);
  shares.forEach((share, k) => { share.textContent = `${(100 * pixels[k] / count).toFixed(1)} %`; });
}

function mask(plane) { // of the size of the picture, by nearest neighbor
  const { classes, isMasks, width, height, full: [columns, rows] } = prediction, pixels = new Uint8Array(columns * rows);
  for (let y = 0; y < rows; y++) {
    const row = plane * width * height + Math.floor((y + 0.5) * height / rows) * width;
    for (let x = 0; x < columns; x++) {
      pixels[y * columns + x] = classes[row + Math.floor((x + 0.5) * width / columns)] * (isMasks ? 255 : 1);
    }
  }
  return png(pixels, columns, rows, isMasks ? null : facts.colors.flat());
}

async function png(pixels, width, height, palette) { // https://www.w3.org/TR/png-3/
  const lines = new Uint8Array((width + 1) * height); // each begins with its filter, which is none
  for (let y = 0; y < height; y++) lines.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const chunks = [chunk("IHDR", [...bigEndian(width), ...bigEndian(height), 8, palette ? 3 : 0, 0, 0, 0])];
  if (palette) chunks.push(chunk("PLTE", palette));
  chunks.push(chunk("IDAT", await transform(lines, new CompressionStream("deflate"))), chunk("IEND", []));
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...chunks], { type: "image/png" });
}

const bigEndian = (value) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255);

function chunk(kind, content) {
  const bytes = new Uint8Array(content.length + 12);
  bytes.set([...bigEndian(content.length), ...new TextEncoder().encode(kind)]);
  bytes.set(content, 8);
  let crc = -1;
  for (const byte of bytes.subarray(4, -4)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  bytes.set(bigEndian(~crc), content.length + 8);
  return bytes;
}

async function download() {
  const stem = prediction.name.replace(/\.[^.]*$/, "");
  for (const [plane, suffix] of (prediction.isMasks ? facts.suffixes : ["mask"]).entries()) {
    const href = URL.createObjectURL(await mask(plane));
    Object.assign(document.createElement("a"), { href, download: `${stem}_${suffix}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60000);
  }
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  $("camera").textContent = "Camera";
}

async function runCamera() {
  if (camera) return stopCamera();
  $("camera").disabled = true; // a second click would start a second camera
  const start = async () => navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const mine = camera = await start()
    .catch(({ message }) => { throw new Error(`No camera: ${message}. Allow it for this page, or choose a picture.`); })
    .finally(() => { $("camera").disabled = false; });
  $("camera").textContent = "Stop the camera";
  const video = Object.assign(document.createElement("video"), { srcObject: mine, muted: true, playsInline: true });
  await video.play();
  say("The camera runs");
  while (camera === mine) await segment(video, "camera.png");
}

async function open(file) {
  if (!file) return;
  stopCamera();
  say(`Segmenting ${file.name}`);
  await segment(file, file.name);
  say(`Segmented ${file.name}`);
}

const guard = (action) => (event) => Promise.resolve(action(event)).catch(({ message }) => { stopCamera(); say(message, true); });

function entry(name, k) { // of the legend; returns where the share goes
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const box = make("input", { type: "checkbox", checked: true, onchange: () => { shown[k] = box.checked; paint(); } });
  const label = make("label"), color = make("i"), share = make("span");
  color.style.background = `rgb(${facts.colors[k]})`;
  label.append(box, color, make("b", { textContent: name }), share);
  $("legend").appendChild(make("li")).append(label);
  return share;
}

async function start() {
  shares = facts.classes.map(entry);
  $("limit").hidden = Boolean(facts.size);
  ($("opacity").oninput = () => { $("overlay").style.opacity = $("opacity").value / 100; })();
  $("file").onchange = guard(() => {
    const [file] = $("file").files;
    $("file").value = ""; // or the same picture again would be no change
    return open(file);
  });
  $("camera").onclick = guard(runCamera);
  $("download").onclick = guard(download);
  document.ondragover = (event) => event.preventDefault(); // or a browser leaves the page for the picture
  document.ondrop = guard((event) => { event.preventDefault(); return open(event.dataTransfer.files[0]); });
  await ready;
  if (!newest) say("Ready");
}

guard(start)();
