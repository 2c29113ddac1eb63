// The page: a recording or a file goes to the server, its answers come back window by window.

import { draw, scroll } from "./picture.js";
import { Recording } from "./record.js";
import { paint } from "./spectrogram.js";

const BARS = 5;
const MOST_WAITING = 3; // windows of the microphone; the whole recording is classified at its end anyway

const $ = (id) => document.getElementById(id);
const state = { model: null, windows: [], answer: null, recording: null, abort: null };

// ---- talking to the server

async function problemOf(reply) {
  const problem = await reply.json().catch(() => ({}));
  return new Error(problem.detail || `The server answered ${reply.status}.`);
}

/** Send a file; call `onItem` with each line of the answer. */
async function classify(file, onItem, signal) {
  const form = new FormData();
  form.append("file", file, "recording");
  const reply = await fetch("api/v1/predict/stream", { method: "POST", body: form, signal });
  if (!reply.ok) throw await problemOf(reply);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const item = JSON.parse(line);
      if (item.problem) throw new Error(item.problem.detail);
      onItem(item);
    }
    if (done) return;
  }
}

// ---- what is shown

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const likeliest = (posterior) => Object.entries(posterior).sort((a, b) => b[1] - a[1]);
const percent = (share) => `${(100 * share).toFixed(share >= 0.0995 ? 0 : 1)} %`;
const element = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text });

function reset() {
  Object.assign(state, { windows: [], answer: null });
  notice("");
  $("windows").replaceChildren();
  $("mattered").textContent = "";
  $("answer").hidden = $("course").hidden = true;
  $("download").disabled = true;
}

function addWindow(item, offset = 0) {
  const window_ = { ...item, start_s: item.start_s + offset, end_s: item.end_s + offset, painted: paint(item.spectrogram) };
  delete window_.spectrogram;
  state.windows.push(window_);
  $("course").hidden = false;
  addRow(window_);
  showAnswer(window_.posterior, window_.unlike, "Now: ");
  redraw();
}

function addRow(window_) {
  const [[name, share]] = likeliest(window_.posterior);
  const row = document.createElement("tr");
  row.append(
    element("td", "", `${window_.start_s.toFixed(1)} – ${window_.end_s.toFixed(1)}`), element("td", "", name),
    element("td", "share", percent(share)), element("td", "", window_.unlike ? "unlike the training clips" : ""),
  );
  $("windows").append(row);
}

function showAnswer(posterior, unlike, prefix = "") {
  const classes = likeliest(posterior);
  $("answer").hidden = false;
  $("top").textContent = `${prefix}${classes[0][0]}, ${percent(classes[0][1])}`;
  $("unlike").hidden = !unlike;
  $("bars").replaceChildren(...classes.slice(0, BARS).map(([name, share]) => {
    const bar = Object.assign(document.createElement("progress"), { max: 1, value: share });
    bar.setAttribute("aria-label", name);
    const line = document.createElement("li");
    line.append(element("span", "name", name), bar, element("span", "share", percent(share)));
    return line;
  }));
}

function finish(item) {
  state.answer = item;
  const [[name, share]] = likeliest(item.recording.posterior);
  showAnswer(item.recording.posterior, item.recording.unlike);
  const chosen = matters();
  const times = `${chosen.start_s.toFixed(1)} to ${chosen.end_s.toFixed(1)} s`;
  $("mattered").textContent = `The framed window, ${times}, speaks most for “${name}”.`;
  $("spectrogram").setAttribute("aria-label", `Spectrogram of ${item.seconds.toFixed(1)} seconds; ${times} is framed`);
  const row = $("windows").children[state.windows.indexOf(chosen)];
  row.className = "matters";
  row.lastChild.textContent = ["speaks most for the answer", row.lastChild.textContent].filter(Boolean).join("; ");
  $("download").disabled = false;
  $("status").textContent = `Done: ${name}, ${percent(share)}, of ${item.seconds.toFixed(1)} s in ${state.windows.length} windows.`;
  redraw();
}

/** The window with the highest probability of the recording's class. */
function matters() {
  const [[name]] = likeliest(state.answer.recording.posterior);
  return state.windows.reduce((best, one) => (one.posterior[name] > best.posterior[name] ? one : best));
}

let drawing = false;
function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw($("spectrogram"), state.windows, state.answer && matters());
  });
}

function showBusy(what) {
  $("record").disabled = $("choose").disabled = Boolean(what);
  $("stop").hidden = !what;
  if (what) $("status").textContent = what;
}

// ---- a file

async function takeFile(file) {
  if (!file || !state.model || state.abort || state.recording) return;
  reset();
  if (file.size > state.model.max_bytes) {
    notice(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB; at most ${(state.model.max_bytes / 1e6).toFixed(0)} MB can be sent.`);
    return;
  }
  await classifyWhole(file, `Classifying ${file.name ?? "the recording"} …`);
}

async function classifyWhole(file, text) {
  state.abort = new AbortController();
  showBusy(text);
  $("stop").textContent = "Cancel";
  let begun = false;
  try {
    await classify(file, (item) => {
      if (!begun) reset(); // windows of the microphone give way to those of the whole recording
      begun = true;
      if (item.recording) finish(item);
      else addWindow(item);
    }, state.abort.signal);
  } catch (error) {
    $("status").textContent = error.name === "AbortError" ? "Canceled." : "";
    if (error.name !== "AbortError") notice(error instanceof TypeError ? "There is no connection to the server." : error.message);
  } finally {
    state.abort = null;
    showBusy("");
    ($("answer").hidden ? $("record") : $("top")).focus();
  }
}

// ---- the microphone

async function record() {
  if (state.recording || state.abort) return;
  reset();
  let pending = 0;
  const recording = new Recording(state.model.window_s, {
    onWindow(file, start) {
      if (pending >= MOST_WAITING) return;
      pending += 1;
      const add = (item) => {
        if (state.recording !== recording || item.recording) return;
        addWindow(item, start);
        $("status").textContent = `Recording. ${$("top").textContent}`;
      };
      classify(file, add).catch((error) => notice(error.message)).finally(() => { pending -= 1; });
    },
    onPiece(piece, seconds) {
      const power = piece.reduce((sum, sample) => sum + sample * sample, 0) / piece.length;
      $("level").value = 10 * Math.log10(power + 1e-6);
      $("clock").textContent = `${seconds.toFixed(1)} s`;
      if (seconds > state.model.max_seconds - 1 || recording.bytes > state.model.max_bytes - 1e5) stop();
    },
  });
  state.recording = recording;
  showBusy("Waiting for the microphone …");
  try {
    await recording.start();
  } catch (error) {
    recording.stop();
    state.recording = null;
    showBusy("");
    $("status").textContent = "";
    notice(error.name === "NotAllowedError" ? "The browser does not give the microphone to this page." : error.message);
    return;
  }
  $("stop").textContent = "Stop and classify";
  $("live").hidden = false;
  $("status").textContent = "Recording.";
  $("stop").focus();
  const follow = () => {
    if (state.recording !== recording) return;
    scroll($("scroll"), recording.analyser);
    requestAnimationFrame(follow);
  };
  follow();
}

function stop() {
  if (state.abort) state.abort.abort();
  const { recording } = state;
  if (!recording || !recording.analyser) return;
  recording.stop();
  state.recording = null;
  $("live").hidden = true;
  if (recording.length) classifyWhole(recording.wav(), "Classifying the whole recording …");
  else showBusy("");
}

// ---- CSV

function csv() {
  const names = state.model.classes;
  const quoted = (text) => `"${String(text).replaceAll("\"", "\"\"")}"`;
  const row = (start, end, of, { posterior, unlike }) => [start, end, of, unlike ?? "", ...names.map((name) => posterior[name])].join(",");
  return [
    ["start_s", "end_s", "of", "unlike", ...names.map(quoted)].join(","),
    ...state.windows.map((one) => row(one.start_s, one.end_s, "window", one)),
    row(0, state.answer.seconds, "recording", state.answer.recording), "",
  ].join("\r\n");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "classes.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---- clicks and drops

$("record").addEventListener("click", record);
$("stop").addEventListener("click", stop);
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  takeFile(file);
  $("file").value = "";
});
$("download").addEventListener("click", download);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  takeFile(event.dataTransfer.files[0]);
});
window.addEventListener("resize", redraw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

const reply = await fetch("api/v1/model").catch(() => null);
if (reply?.ok) {
  state.model = await reply.json();
  showBusy("");
  $("known-count").textContent = `${state.model.classes.length} classes`;
  $("classes").textContent = state.model.classes.join(", ");
} else {
  notice("There is no connection to the server.");
}
