import { BELOW, LEFT, axes, paint, tick } from "./spectrogram.js";

const ANSWERS = [
  ["right", "Right", "The label applies."],
  ["wrong", "Wrong", "It does not apply; another label of the list would."],
  ["incomplete", "Incomplete", "It applies, but other sounds here deserve a label, too."],
  ["out_of_vocabulary", "Out of vocabulary", "It does not apply, and no label of the list does."],
  ["unsure", "Unsure", "I cannot tell."],
];
const JUST_SHOWN_MS = 250; // an answer this soon was meant for the clip before
const RETRY_MS = 2000;

const $ = (id) => document.getElementById(id);
const audio = $("audio");
const canvas = $("spectrogram");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

const state = {
  sample: "", annotator: "", rows: [], at: 0, history: [], shownAt: 0, picture: null, seconds: 0, ready: false,
  failed: false, sending: false, reviewing: false,
};

// ---- what stays in the browser: the name, drafts of notes, an answer not yet acknowledged

function stored(name) {
  try { return JSON.parse(localStorage.getItem(`listen.${state.sample}.${name}`)); } catch { return null; }
}

function store(name, value) {
  const key = `listen.${state.sample}.${name}`;
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
  } catch { /* a browser without storage still answers; it only forgets on reload */ }
}

const draftOf = (row) => `draft.${state.annotator}.${row}`;

// ---- talking to the server

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body) {
  const request = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const reply = await fetch(path, { cache: "no-store", credentials: "same-origin", ...request });
  const document_ = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refused(reply.status, document_.detail || `the server answered ${reply.status}`);
  return document_;
}

function notice(text) {
  $("notice").textContent = text || "";
  $("notice").hidden = !text;
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Send until it is acknowledged; the page does not go on before that. */
async function send(entry) {
  store("pending", entry);
  state.sending = true;
  showButtons();
  try {
    for (;;) {
      try {
        const kept = await ask("api/answers", entry);
        notice(kept.warning);
        store("pending", null);
        return kept;
      } catch (error) {
        if (error instanceof Refused && [400, 404, 413, 415].includes(error.status)) {
          store("pending", null);
          notice(`The answer was refused: ${error.message}`);
          return null;
        }
        notice(error instanceof Refused && error.status === 403
          ? "Not saved yet: the listening session was started again. Open the new address it printed; this answer is kept in this browser."
          : `Not saved yet (${error instanceof Refused ? error.message : "no connection to the server"}). The answer is kept here and sent again …`);
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
      }
    }
  } finally {
    state.sending = false;
    showButtons();
  }
}

// ---- who listens

async function begin() {
  const session = await ask("api/session");
  state.sample = session.sample;
  $("names").replaceChildren(...session.annotators.map((name) => Object.assign(document.createElement("option"), { value: name })));
  const name = stored("annotator");
  if (name) await enter(name);
  else welcome(session.annotator || "");
}

function welcome(proposed) {
  only("welcome");
  $("annotator").textContent = "";
  $("change-annotator").hidden = true;
  $("name").value = proposed;
  $("name").focus();
}

async function enter(name) {
  let known = await ask(`api/state?annotator=${encodeURIComponent(name)}`);
  const pending = stored("pending");
  if (pending) {
    if ("verdict" in pending) Object.assign(pending, { annotator: pending.listener, answer: pending.verdict }); // of an older page
    await send(pending);
    known = await ask(`api/state?annotator=${encodeURIComponent(name)}`);
  }
  state.annotator = known.annotator;
  state.rows = known.rows;
  state.history = known.answered;
  state.reviewing = false;
  store("annotator", known.annotator);
  $("annotator").textContent = known.annotator;
  $("change-annotator").hidden = false;
  state.at = -1;
  next(false);
}

function only(shown) {
  for (const name of ["welcome", "work", "done"]) $(name).hidden = name !== shown;
  $("progress-line").hidden = shown === "welcome";
}

// ---- from clip to clip

const answered = () => state.rows.filter((row) => row.answer).length;

function next(play) {
  const total = state.rows.length;
  for (let step = 1; step <= total; step += 1) {
    const at = (state.at + step) % total;
    if (!state.rows[at].answer || (state.reviewing && state.at + step < total)) {
      show(at, play);
      return;
    }
  }
  finish();
}

function finish() {
  silence();
  only("done");
  showProgress();
  $("done-text").textContent = `Thank you, ${state.annotator}. All ${state.rows.length} answers are kept; this page can be closed.`;
  $("done-title").focus();
}

function silence() {
  audio.pause();
  audio.removeAttribute("src");
  audio.load();
}

async function show(at, play) {
  silence();
  only("work");
  const row = state.rows[at];
  Object.assign(state, { at, picture: null, seconds: 0, ready: false, failed: false });
  $("label").textContent = row.label;
  $("note").value = stored(draftOf(row.row)) ?? row.note ?? "";
  $("player").hidden = false;
  $("failed").hidden = true;
  $("waiting").hidden = false;
  showProgress();
  showButtons();
  draw();
  $("question").focus({ preventScroll: true });
  let clip;
  try {
    clip = await ask(`api/rows/${row.row}`);
  } catch (error) {
    clip = { error: error.message, video: null };
  }
  if (state.at !== at || $("work").hidden) return;
  $("waiting").hidden = true;
  state.ready = true;
  state.shownAt = performance.now();
  if (clip.error) {
    showFailure(clip);
  } else {
    state.seconds = clip.seconds;
    state.picture = paint(clip.spectrogram);
    canvas.setAttribute("aria-valuemax", clip.seconds.toFixed(1));
    audio.src = `audio/${row.row}`;
    if (play && $("autoplay").checked) start();
    prefetch(at);
  }
  showButtons();
  draw();
}

function showFailure(clip) {
  state.failed = !clip.video;
  $("player").hidden = true;
  $("failed").hidden = false;
  $("failed").classList.toggle("elsewhere", Boolean(clip.video));
  $("why").textContent = `This clip cannot be played here: ${clip.error}.` +
    (clip.video ? "" : " Answer “unsure”, or skip it for now.");
  $("video-line").hidden = !clip.video;
  if (clip.video) $("video").href = clip.video;
  $("video-length").textContent = clip.length_s ? `(${Number(clip.length_s.toFixed(1))} s count)` : "";
}

function prefetch(at) {
  const row = state.rows.slice(at + 1).find((one) => !one.answer);
  if (row) fetch(`api/rows/${row.row}`).catch(() => {});
}

function showProgress() {
  const total = state.rows.length;
  $("progress").max = total;
  $("progress").value = answered();
  $("count").textContent = `${answered()} of ${total} answered`;
}

function showButtons() {
  const row = state.rows[state.at];
  for (const button of $("answers").children) {
    const choice = button.dataset.answer;
    button.disabled = state.sending || !state.ready || (state.failed && choice !== "unsure");
    button.setAttribute("aria-pressed", String(Boolean(row) && row.answer === choice));
  }
  $("back").disabled = state.sending || state.at <= 0;
  $("skip").disabled = state.sending;
  $("undo").disabled = state.sending || !state.history.length;
}

async function answer(chosen) {
  const row = state.rows[state.at];
  const shown = performance.now() - state.shownAt;
  if (state.sending || !state.ready || shown < JUST_SHOWN_MS || (state.failed && chosen !== "unsure")) return;
  const kept = await send({
    id: newId(), annotator: state.annotator, row: row.row, answer: chosen, note: $("note").value, seconds: shown / 1000,
  });
  if (!kept) return;
  Object.assign(row, { answer: kept.answer, note: kept.note });
  store(draftOf(row.row), null);
  state.history.push(row.row);
  next(true);
}

async function undo() {
  const last = state.history[state.history.length - 1];
  if (state.sending || last === undefined) return;
  const kept = await send({ id: newId(), annotator: state.annotator, row: last, answer: null });
  if (!kept) return;
  state.history.pop();
  const at = state.rows.findIndex((row) => row.row === last);
  Object.assign(state.rows[at], { answer: kept.answer, note: kept.note });
  show(at, false);
}

// ---- sound

function start() {
  audio.play().catch(() => { /* a browser that wants a click first: the button is there */ });
}

function playOrPause() {
  if (!state.picture) return;
  if (audio.paused) {
    if (audio.ended) audio.currentTime = 0;
    start();
  } else {
    audio.pause();
  }
}

function replay() {
  if (!state.picture) return;
  audio.currentTime = 0;
  start();
}

function seek(to) {
  if (!state.picture) return;
  audio.currentTime = Math.min(Math.max(to, 0), state.seconds);
  draw();
}

// ---- the spectrogram

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const box = { left: LEFT, top: 8, width: width - LEFT - 12, height: height - BELOW - 8 };
  context.fillStyle = "#000004";
  context.fillRect(box.left, box.top, box.width, box.height);
  if (state.picture) {
    context.imageSmoothingEnabled = true;
    context.drawImage(state.picture.canvas, box.left, box.top, box.width, box.height);
    axes(context, box, state.seconds, state.picture);
    playhead(context, box);
  }
  showTime();
}

function playhead(context, box) {
  const x = box.left + (box.width * Math.min(audio.currentTime, state.seconds)) / state.seconds;
  for (const [color, wide] of [["#000", 5], ["#fff", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = wide;
    tick(context, x, box.top, x, box.top + box.height);
  }
}

function showTime() {
  const now = Math.min(audio.currentTime || 0, state.seconds);
  $("time").textContent = `${now.toFixed(1)} / ${state.seconds.toFixed(1)} s`;
  canvas.setAttribute("aria-valuenow", now.toFixed(1));
  canvas.setAttribute("aria-valuetext", `${now.toFixed(1)} of ${state.seconds.toFixed(1)} seconds`);
}

function follow() {
  if (audio.paused) return;
  draw();
  if (!calm.matches) requestAnimationFrame(follow);
}

function showPlaying() {
  $("play").firstChild.textContent = audio.paused ? "Play " : "Pause ";
  draw();
  follow();
}

// ---- keys, clicks and the rest

const KEYS = {
  r: replay, n: () => $("note").focus(), u: undo, s: () => { if (!state.sending) next(true); }, "?": openHelp,
  b: () => { if (!state.sending && state.at > 0) show(state.at - 1, true); },
};

function openHelp() {
  audio.pause();
  if (!$("help").open) $("help").showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.matches("textarea, input:not([type=checkbox])");
  if (event.key === "Escape" && typing) {
    event.target.blur();
    $("question").focus({ preventScroll: true });
    return;
  }
  if (typing || $("work").hidden || !$("keys").checked) {
    if (event.key === "?" && !typing) openHelp();
    return;
  }
  const moves = {
    ArrowLeft: () => seek(audio.currentTime - 1), ArrowRight: () => seek(audio.currentTime + 1), ArrowUp: replay,
    Home: () => seek(0), End: () => seek(state.seconds),
  };
  const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
  if (event.key === " ") {
    if (event.target.matches("button, a, input")) return; // it presses what has the focus
    if (!event.repeat) playOrPause();
  } else if (event.key in moves) {
    moves[event.key]();
  } else if (event.repeat) {
    return;
  } else if ((digit && !event.shiftKey) || /^[1-5]$/.test(event.key)) {
    answer(ANSWERS[Number(/^[1-5]$/.test(event.key) ? event.key : digit[1]) - 1][0]);
  } else if (event.key.toLowerCase() in KEYS) {
    KEYS[event.key.toLowerCase()]();
  } else {
    return;
  }
  event.preventDefault();
}

function clickedAt(event) {
  const bounds = canvas.getBoundingClientRect();
  seek(((event.clientX - bounds.left - LEFT) / (bounds.width - LEFT - 12)) * state.seconds);
}

function build() {
  ANSWERS.forEach(([chosen, name, meaning], index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.disabled = true; // until a clip is shown
    button.dataset.answer = chosen;
    button.setAttribute("aria-keyshortcuts", String(index + 1));
    const title = Object.assign(document.createElement("span"), { className: "name", textContent: `${name} ` });
    title.append(Object.assign(document.createElement("kbd"), { textContent: String(index + 1) }));
    const hint = Object.assign(document.createElement("span"), { className: "hint", textContent: meaning });
    button.append(title, hint);
    button.addEventListener("click", () => answer(chosen));
    $("answers").append(button);
    $("meanings").append(
      Object.assign(document.createElement("dt"), { textContent: `${index + 1}  ${name}` }),
      Object.assign(document.createElement("dd"), { textContent: meaning }),
    );
  });
  $("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    notice("");
    enter($("name").value).catch((error) => notice(error.message));
  });
  $("change-annotator").addEventListener("click", () => {
    if (state.sending) return;
    silence();
    store("annotator", null);
    begin().catch((error) => notice(error.message));
  });
  $("note").addEventListener("input", () => store(draftOf(state.rows[state.at].row), $("note").value));
  $("play").addEventListener("click", playOrPause);
  $("replay").addEventListener("click", replay);
  $("retry").addEventListener("click", () => show(state.at, true));
  $("back").addEventListener("click", KEYS.b);
  $("skip").addEventListener("click", KEYS.s);
  $("undo").addEventListener("click", undo);
  $("open-help").addEventListener("click", openHelp);
  $("review").addEventListener("click", () => {
    state.reviewing = true;
    show(0, true);
  });
  $("autoplay").addEventListener("change", () => store("autoplay", $("autoplay").checked));
  $("keys").addEventListener("change", () => store("keys", $("keys").checked));
  canvas.addEventListener("pointerdown", clickedAt);
  for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, showPlaying);
  for (const event of ["timeupdate", "seeked", "loadedmetadata"]) audio.addEventListener(event, draw);
  document.addEventListener("keydown", onKey);
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

build();
begin().then(() => {
  $("autoplay").checked = stored("autoplay") ?? true;
  $("keys").checked = stored("keys") ?? true;
}).catch((error) => notice(error instanceof Refused ? error.message : "There is no connection to the listening session."));
