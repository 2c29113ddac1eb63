// Spectrograms on canvases: one of the windows so far, one that scrolls while the microphone is open.

import { BELOW, LEFT, LOOKUP, axes, mel } from "./spectrogram.js";

const hertz = (value) => 700 * (10 ** (value / 2595) - 1);

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
