// Spectrograms on canvases: one of the windows so far, one that scrolls while the microphone is open.

const LEFT = 52;
const BELOW = 24;

// Magma's ground colors (matplotlib), from silent to loud.
const COLORS = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97],
  [254, 194, 135], [252, 253, 191]];

const LOOKUP = Uint8ClampedArray.from({ length: 256 * 4 }, (_, index) => {
  const place = (index >> 2) / 255 * (COLORS.length - 1);
  const low = Math.min(Math.floor(place), COLORS.length - 2);
  const part = index & 3;
  return part === 3 ? 255 : COLORS[low][part] + (COLORS[low + 1][part] - COLORS[low][part]) * (place - low);
});

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (value) => 700 * (10 ** (value / 2595) - 1);

/** Draw a window's spectrogram as the server sends it into a canvas of its own. */
export function paint(spectrogram) {
  const { bands, frames } = spectrogram;
  const levels = atob(spectrogram.levels);
  const image = new ImageData(frames, bands);
  for (let band = 0; band < bands; band += 1) {
    for (let frame = 0; frame < frames; frame += 1) {
      const level = levels.charCodeAt(band * frames + frame) * 4;
      image.data.set(LOOKUP.subarray(level, level + 4), ((bands - 1 - band) * frames + frame) * 4);
    }
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: frames, height: bands });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, low: mel(spectrogram.low_hz), high: mel(spectrogram.high_hz) };
}

/**
 * Draw all windows with axes, and a frame around one.
 * @param {HTMLCanvasElement} canvas
 * @param {{start_s: number, end_s: number, painted: object}[]} windows
 * @param {?{start_s: number, end_s: number}} framed
 */
export function draw(canvas, windows, framed) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !windows.length) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const box = { left: LEFT, top: 4, width: width - LEFT - 10, height: height - BELOW - 4 };
  const seconds = Math.max(...windows.map((one) => one.end_s));
  const x = (time) => box.left + (box.width * time) / seconds;
  context.fillStyle = "#000004";
  context.fillRect(box.left, box.top, box.width, box.height);
  for (const { painted, start_s, end_s } of windows) {
    context.drawImage(painted.canvas, x(start_s), box.top, x(end_s) - x(start_s) + 0.5, box.height);
  }
  axes(context, box, seconds, windows[0].painted);
  if (!framed) return;
  for (const [color, wide] of [["#000", 5], ["#fff", 2.5]]) {
    context.strokeStyle = color;
    context.lineWidth = wide;
    context.strokeRect(x(framed.start_s) + 2, box.top + 2, Math.max(2, x(framed.end_s) - x(framed.start_s) - 4), box.height - 4);
  }
}

function axes(context, box, seconds, { low, high }) {
  context.fillStyle = getComputedStyle(document.body).color;
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  let lastY = Infinity;
  for (const tick of [100, 250, 500, 1000, 2000, 4000, 8000, 16000]) {
    const y = box.top + box.height * (1 - (mel(tick) - low) / (high - low));
    if (y < box.top + 4 || y > box.top + box.height || lastY - y < 17) continue;
    lastY = y;
    context.fillText(tick < 1000 ? `${tick} Hz` : `${tick / 1000} kHz`, box.left - 6, y);
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800].find((one) => (box.width * one) / seconds >= 48) || 3600;
  for (let time = 0; time <= seconds + 1e-9; time += step) {
    const x = Math.min(box.left + (box.width * time) / seconds, box.left + box.width - 8);
    context.fillText(`${Number(time.toFixed(2))} s`, x, box.top + box.height + 6);
  }
}

/** Scroll by a column and draw the present spectrum at the right, on a mel scale. */
export function scroll(canvas, analyser) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const levels = new Uint8Array(analyser.frequencyBinCount);
  analyser.getByteFrequencyData(levels);
  context.drawImage(canvas, -2, 0);
  const top = mel(analyser.context.sampleRate / 2);
  const column = new ImageData(2, height);
  for (let y = 0; y < height; y += 1) {
    const bin = Math.round(hertz(top * (1 - y / height)) / (analyser.context.sampleRate / 2) * (levels.length - 1));
    const color = LOOKUP.subarray(levels[bin] * 4, levels[bin] * 4 + 4);
    column.data.set(color, y * 8);
    column.data.set(color, y * 8 + 4);
  }
  context.putImageData(column, width - 2, 0);
}
