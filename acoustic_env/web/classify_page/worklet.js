// In the audio thread: the mean of the channels, in pieces of 2048 samples.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(2048);
    this.filled = 0;
  }

  process([channels]) {
    const samples = channels.length ? channels[0].length : 0;
    for (let at = 0; at < samples; at += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[at];
      this.piece[this.filled] = sum / channels.length;
      this.filled += 1;
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
