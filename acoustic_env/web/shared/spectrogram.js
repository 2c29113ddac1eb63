// Spectrograms as the server sends them, on canvases.

export const LEFT = 58; // of the axis of frequencies
export const BELOW = 26; // of the axis of times

// Magma's ground colors (matplotlib), from silent to loud.
const COLORS = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97],
  [254, 194, 135], [252, 253, 191]];

export const LOOKUP = Uint8ClampedArray.from({ length: 256 * 4 }, (_, index) => {
  const place = (index >> 2) / 255 * (COLORS.length - 1);
  const low = Math.min(Math.floor(place), COLORS.length - 2);
  const part = index & 3;
  return part === 3 ? 255 : COLORS[low][part] + (COLORS[low + 1][part] - COLORS[low][part]) * (place - low);
});

export const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);

/** Draw a spectrogram into a canvas of its own. */
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

/** Draw frequencies and times around a box [left, top, width, height] of a context. */
export function axes(context, box, seconds, { low, high }) {
  const ink = getComputedStyle(document.body).color;
  context.fillStyle = ink;
  context.strokeStyle = ink;
  context.lineWidth = 1;
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  let lastY = Infinity;
  for (const hertz of [100, 250, 500, 1000, 2000, 4000, 8000, 16000]) {
    const y = box.top + box.height * (1 - (mel(hertz) - low) / (high - low));
    if (y < box.top || y > box.top + box.height || lastY - y < 17) continue;
    lastY = y;
    tick(context, box.left - 5, y, box.left, y);
    context.fillText(hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`, box.left - 8, y);
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  const steps = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800];
  const step = steps.find((one) => (box.width * one) / seconds >= 48) || 3600;
  for (let time = 0; time <= seconds + 1e-9; time += step) {
    const x = box.left + (box.width * time) / seconds;
    tick(context, x, box.top + box.height, x, box.top + box.height + 5);
    context.fillText(`${Number(time.toFixed(2))} s`, Math.min(x, box.left + box.width - 4), box.top + box.height + 8);
  }
}

export function tick(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}
