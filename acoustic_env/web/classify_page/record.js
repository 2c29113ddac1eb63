// The microphone: samples at the device's own rate, as 16-bit WAV files of any part of the recording.

const HEADER = 44;
const BYTES = 2; // of a sample

export class Recording {
  /**
   * @param {number} seconds of a window
   * @param {{onWindow: function(Blob, number): void, onPiece: function(Float32Array, number): void}} listener
   *   receives each finished window with its start, and each piece of samples with the seconds so far
   */
  constructor(seconds, listener) {
    this.seconds = seconds;
    this.listener = listener;
    this.pieces = [];
    this.length = 0;
    this.windows = 0;
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("This browser gives the microphone only to pages at localhost or over HTTPS.");
    // As it sounds: what a call wants removed may be what is to be classified.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.context = new AudioContext();
    this.rate = this.context.sampleRate;
    await this.context.audioWorklet.addModule("worklet.js");
    const source = this.context.createMediaStreamSource(this.stream);
    this.analyser = new AnalyserNode(this.context, { fftSize: 2048, smoothingTimeConstant: 0 });
    this.capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    this.capture.port.onmessage = (event) => this.add(event.data);
    source.connect(this.analyser);
    source.connect(this.capture);
    await this.context.resume();
  }

  add(piece) {
    this.pieces.push(Int16Array.from(piece, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768)))));
    this.length += piece.length;
    this.listener.onPiece(piece, this.length / this.rate);
    const edge = (count) => Math.round(count * this.seconds * this.rate);
    while (edge(this.windows + 1) <= this.length) {
      const start = edge(this.windows);
      this.windows += 1;
      this.listener.onWindow(this.wav(start, edge(this.windows)), start / this.rate);
    }
  }

  stop() {
    if (this.capture) this.capture.port.onmessage = null;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.context) this.context.close();
  }

  /** Bytes of the whole recording as a file. */
  get bytes() {
    return HEADER + this.length * BYTES;
  }

  /** A file of the samples from `start` to before `stop`. */
  wav(start = 0, stop = this.length) {
    const view = new DataView(new ArrayBuffer(HEADER));
    const text = (at, letters) => [...letters].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
    const size = (stop - start) * BYTES;
    text(0, "RIFF");
    view.setUint32(4, HEADER - 8 + size, true);
    text(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    view.setUint16(20, 1, true);
    view.setUint16(22, 1, true);
    view.setUint32(24, this.rate, true);
    view.setUint32(28, this.rate * BYTES, true);
    view.setUint16(32, BYTES, true);
    view.setUint16(34, 8 * BYTES, true);
    text(36, "data");
    view.setUint32(40, size, true);
    const parts = [view.buffer];
    let at = 0;
    for (const piece of this.pieces) {
      if (at + piece.length > start && at < stop) parts.push(piece.slice(Math.max(0, start - at), stop - at));
      at += piece.length;
    }
    return new Blob(parts, { type: "audio/wav" });
  }
}
