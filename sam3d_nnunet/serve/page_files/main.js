// The page: what buttons, keys and gestures do, and what is shown of the server's answers.

import * as api from "/page/assets/api.js";
import { css } from "/page/assets/colours.js";
import { listen } from "/page/assets/gestures.js";
import { Viewer } from "/page/assets/viewer.js";

const $ = (id) => document.getElementById(id);
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const viewer = new Viewer($("picture"), $("drawing"));
window.sam3d = { viewer }; // for tests, and for the curious in the browser's console
let model = null;
let image = null; // {name, ...} of the server
let state = nothing();
let seconds = null;
let isBusy = false;
let isSaved = true;
let shownChannel = "0";
let again = null; // what "Try again" does

// --- start ---

function nothing() {
  return { prompts: 0, clicks: [], ml: {}, objects: [] };
}

/** No prompts and no objects, and so nothing to save. */
function forget() {
  update(nothing());
  isSaved = true;
}

async function begin() {
  image = null;
  show("starting");
  forget();
  await busy("Connecting…", async () => {
    try {
      viewer.nv ?? (await viewer.start());
      describe(await api.begin());
      show("empty");
      await listFolders();
    } catch (error) {
      if (error.status === 401 || error.status === 403) await askForKey();
      fail(error.message, begin);
    }
  });
}

async function askForKey() {
  $("key-dialog").showModal();
  await new Promise((resolve) => $("key-dialog").addEventListener("close", resolve, { once: true }));
  api.useKey($("key").value);
}

function describe(session) {
  model = session.model;
  $("model-name").textContent = model.name.replace(/^Dataset\d+_/, "");
  $("endings").textContent =
    `${model.endings.join(", ")}` + (model.channels > 1 ? ` · ${model.channels} files, one for each channel` : "");
  $("file").multiple = model.channels > 1;
  for (const label of document.querySelectorAll("[data-tool]")) {
    const { tool } = label.dataset;
    label.hidden = !(tool === "look" || model.tools.includes(tool));
  }
  $("effects").hidden = !model.background;
  $("classes").hidden = model.classes.length < 2;
  $("class-list").replaceChildren(...model.classes.map(classChoice));
}

function classChoice({ number, name }, place) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: number });
  input.checked = place === 0;
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.background = css(place);
  label.append(input, swatch, name);
  if (place < 9) label.append(" ", Object.assign(document.createElement("kbd"), { textContent: place + 1 }));
  return label;
}

// --- images ---

async function listFolders() {
  const found = await api.json("GET", "images");
  for (const place of [$("folders"), $("dialog-folders")]) {
    place.replaceChildren(...found.filter((folder) => folder.names.length).map(folderList));
  }
}

function folderList({ folder, title, names }) {
  const section = document.createElement("section");
  const heading = Object.assign(document.createElement("h3"), { textContent: `On the server: ${title}` });
  const list = document.createElement("ul");
  for (const name of names) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", () => openFromFolder(folder, name));
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
  section.append(heading, list);
  return section;
}

function mayLeave() {
  return isSaved || confirm("The segmentation has not been saved. Open another image all the same?");
}

function openFromFolder(folder, name) {
  $("open-dialog").close();
  if (mayLeave()) open(name, () => api.json("POST", "open", { folder, name }));
}

function openFiles(files) {
  $("open-dialog").close();
  const chosen = [...files].sort((a, b) => a.name.localeCompare(b.name));
  if (!chosen.length || !mayLeave()) return;
  if (chosen.length !== model.channels) {
    tell(`This model takes ${model.channels} file(s) for an image, one for each channel, not ${chosen.length}.`, true);
    return;
  }
  open(chosen[0].name, async () => {
    $("busy-progress").hidden = false;
    for (const [channel, file] of chosen.entries()) {
      await api.upload(file, channel, (share) => ($("busy-progress").value = share));
    }
    $("busy-progress").hidden = true;
    return api.json("POST", "open-upload");
  });
}

function open(name, ask) {
  if (isBusy) return;
  return busy(`Opening ${name}…`, async () => {
    try {
      const next = await ask();
      image = null; // the server has left the one before
      await viewer.open(await api.bytes("image"));
      image = next;
      seconds = null;
      forget();
      showImageName();
      showContrast();
      show("ready");
      viewer.setLayout($("layout").value);
      moved();
      tell(`${image.name} is open. Click on what you want to segment.`);
    } catch (error) {
      if (error.status === 0 || error.status >= 500) image = null; // the server may have left it
      if (image && error.status === 400) tell(error.message, true);
      else fail(error.message, error.status === 410 ? begin : () => show(image ? "ready" : "empty"));
      if (!image) forget();
    } finally {
      $("busy-progress").hidden = true;
    }
  });
}

function showImageName() {
  const spacing = image.spacing.map((mm) => Number(mm.toFixed(2))).join(" × ");
  $("image-name").textContent = `${image.name} · ${image.size.join(" × ")} voxels · ${spacing} mm`;
  document.title = `${image.name} · sam3d`;
  shownChannel = "0";
  $("channel-choice").hidden = image.channels < 2;
  $("channel").replaceChildren(...Array.from({ length: image.channels }, (_, channel) => new Option(channel, channel)));
}

// --- prompts ---

const tool = () => document.querySelector("[name=tool]:checked").value;
const adds = (isOpposite) => {
  const isAdd = !model.background || document.querySelector("[name=effect]:checked").value === "add";
  return isOpposite && model.background ? !isAdd : isAdd;
};
const label = () => Number(document.querySelector("[name=class]:checked").value);
const placeOf = (number) => model.classes.findIndex((one) => one.number === number);

function prompt(kind, places, isOpposite) {
  if (!image || isBusy) return;
  const include = adds(isOpposite);
  viewer.lookAt(places.at(-1));
  moved();
  const drawn = { kind, points: places.map((place) => place.mm), label: label(), include, plane: places[0].plane };
  if (kind === "click") showClicks([...state.clicks, { point: drawn.points[0], label: include ? drawn.label : 0 }]);
  act("Predicting…", () => api.json("POST", "interaction", drawn));
}

async function act(text, ask) {
  if (!image || isBusy) return;
  await busy(text, async () => {
    try {
      update(await ask());
    } catch (error) {
      if (error.status === 410) return fail(error.message, begin);
      await catchUp(error.status);
      tell(error.message, true);
    }
  });
}

/** After a mistake, nothing has changed. After a lost answer, the server knows what has. */
async function catchUp(status) {
  let known = {};
  if (status === 0 || status >= 500) known = await api.json("GET", "state").catch(() => ({}));
  update(known);
}

/** Show what the server says of the object. */
function update(answer) {
  const had = state.prompts + state.objects.length;
  state = { ...state, ...answer };
  if (answer.changes) viewer.apply(answer.changes);
  if (answer.seconds !== undefined) seconds = answer.seconds;
  if (had !== state.prompts + state.objects.length || answer.changes) isSaved = false;
  showClicks(state.clicks);
  const ml = Object.entries(state.ml);
  const total = ml.reduce((sum, [, volume]) => sum + volume, 0);
  $("volume").textContent = state.prompts ? millilitres(total) : "–";
  if (ml.length > 1) {
    const parts = ml.map(([number, volume]) => `${model.classes[placeOf(Number(number))].name} ${millilitres(volume)}`);
    $("volume").textContent += ` (${parts.join(", ")})`;
  }
  $("clicks").textContent = state.clicks.length;
  $("seconds").textContent = seconds === null ? "–" : `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
  $("objects").replaceChildren(...state.objects.map(finishedObject));
  enable();
}

function millilitres(ml) {
  return `${ml >= 100 ? ml.toFixed(0) : ml >= 1 ? ml.toFixed(1) : ml.toPrecision(2)} ml`;
}

function finishedObject({ ml, clicks }, number) {
  const item = document.createElement("li");
  const text = `Object ${number + 1} · ${millilitres(ml)} · ${clicks} click${clicks === 1 ? "" : "s"}`;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Remove" });
  button.className = "plain";
  button.setAttribute("aria-label", `Remove object ${number + 1}`);
  button.addEventListener("click", () => act("Removing…", () => api.json("DELETE", `objects/${number}`)));
  item.append(text, button);
  return item;
}

function showClicks(clicks) {
  viewer.setClicks(clicks.map(({ point, label }) => ({ point, place: label === 0 ? -1 : placeOf(label) })));
}

const undo = () => state.prompts && act("Undoing…", () => api.json("POST", "undo"));
const next = () => Object.keys(state.ml).length && act("Keeping the object…", () => api.json("POST", "next"));
const clear = () => state.prompts && act("Clearing…", () => api.json("POST", "clear"));

async function save(path, name) {
  await busy("Saving…", async () => {
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([await api.bytes(path)]));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      isSaved ||= path === "segmentation";
      tell(`${name} is saved in the folder of your downloads.`);
    } catch (error) {
      tell(error.message, true);
    }
  });
}

const saveSegmentation = () => image && save("segmentation", `${image.name}.nii.gz`);
const saveClicks = () => image && save("clicks", `${image.name}.json`);

// --- what is shown ---

function show(name) {
  document.body.dataset.state = name;
  $("empty").hidden = name !== "empty";
  $("failed").hidden = name !== "failed";
  enable();
}

function fail(text, retry) {
  $("failed-text").textContent = text;
  again = retry;
  show("failed");
}

function tell(text, isError = false) {
  const message = $("message");
  message.textContent = text;
  message.classList.toggle("is-error", isError);
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (message.textContent = ""), isError ? 12000 : 5000);
}

async function busy(text, work) {
  isBusy = true;
  enable();
  const start = performance.now();
  const tick = () => {
    const passed = Math.floor((performance.now() - start) / 1000);
    $("busy-text").textContent = passed ? `${text} ${passed} s` : text;
  };
  tick();
  const appear = setTimeout(() => ($("busy").hidden = false), 150);
  const timer = setInterval(tick, 1000);
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    clearTimeout(appear);
    clearInterval(timer);
    $("busy").hidden = true;
    document.body.removeAttribute("aria-busy");
    isBusy = false;
    enable();
  }
}

function enable() {
  const isReady = Boolean(image) && !isBusy && document.body.dataset.state === "ready";
  $("undo-button").disabled = $("clear-button").disabled = !(isReady && state.prompts);
  $("next-button").disabled = !(isReady && Object.keys(state.ml).length);
  $("save-segmentation").disabled = !(isReady && (Object.keys(state.ml).length || state.objects.length));
  $("save-clicks").disabled = !(isReady && (state.clicks.length || state.objects.some((done) => done.clicks)));
  $("open-button").disabled = isBusy || !model;
  for (const id of ["opacity", "darkest", "brightest", "layout", "channel"]) $(id).disabled = !image;
  $("drawing").dataset.tool = tool();
}

function showContrast() {
  [$("darkest").value, $("brightest").value] = viewer.contrast;
}

function setContrast() {
  if (image) viewer.setContrast(Number($("darkest").value), Number($("brightest").value));
}

function moved() {
  $("readout").textContent = viewer.isOpen ? viewer.describeCrosshair() : "";
}

let shownOpacity = 0.6;
function hideOrShowMask() {
  const slider = $("opacity");
  if (Number(slider.value) > 0) [shownOpacity, slider.value] = [slider.value, 0];
  else slider.value = shownOpacity;
  viewer.setOpacity(Number(slider.value));
}

function nextLayout() {
  const select = $("layout");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  viewer.setLayout(select.value);
}

function choose(name, value) {
  const input = document.querySelector(`[name=${name}][value="${value}"]`);
  if (input && !input.closest("[hidden]")) input.checked = true;
  enable();
}

// --- events ---

listen($("drawing"), viewer, {
  tool,
  tap: (place, isOpposite) => prompt("click", [place], isOpposite),
  line: (places, isOpposite) => prompt("scribble", places, isOpposite),
  box: (places, isOpposite) => prompt("box", places, isOpposite),
  colour: (isOpposite) => (adds(isOpposite) ? css(placeOf(label())) : "#ffffff"),
  contrast: (dx, dy) => {
    const [darkest, brightest] = viewer.contrast;
    const [width, level] = [brightest - darkest + dx / 500, (brightest + darkest) / 2 + dy / 500];
    viewer.setContrast(level - width / 2, level + width / 2);
    showContrast();
  },
  moved,
});

const KEYS = {
  c: () => choose("tool", "click"),
  s: () => choose("tool", "scribble"),
  b: () => choose("tool", "box"),
  l: () => choose("tool", "look"),
  x: () => choose("effect", adds(false) ? "remove" : "add"),
  u: undo,
  n: next,
  o: hideOrShowMask,
  v: nextLayout,
  r: () => viewer.resetZoom(),
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.target.matches("select, [type=password]")) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    const run = { z: undo, s: saveSegmentation }[key];
    if (run) event.preventDefault();
    return run?.();
  }
  if (event.altKey) return;
  if (/^[1-9]$/.test(key) && model?.classes[key - 1]) return choose("class", model.classes[key - 1].number);
  if (image || key === "?") KEYS[key]?.();
});

$("drawing").addEventListener("keydown", (event) => {
  if (!image || event.ctrlKey || event.metaKey) return;
  const plane = { coronal: "coronal", sagittal: "sagittal" }[currentPlane()] ?? "axial";
  if (event.key in STEPS) {
    const [a, b] = STEPS[event.key];
    const right = -a; // the patient's right is on the left of the screen
    if (plane === "axial") viewer.step(right, b, 0);
    else if (plane === "coronal") viewer.step(right, 0, b);
    else viewer.step(0, a, b); // the patient's back is on the left
  } else if (event.key === "PageUp") viewer.scroll(plane, 1);
  else if (event.key === "PageDown") viewer.scroll(plane, -1);
  else if (event.key === "Enter") prompt("click", [viewer.crosshair(plane)], event.shiftKey);
  else return;
  event.preventDefault();
  moved();
});

function currentPlane() {
  return $("layout").value === "all" ? $("drawing").dataset.plane : $("layout").value;
}

$("open-button").addEventListener("click", () => {
  if ($("dialog-folders").childElementCount) $("open-dialog").showModal();
  else $("file").click();
});
for (const id of ["choose-button", "choose-again"]) $(id).addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  openFiles($("file").files);
  $("file").value = "";
});
$("retry-button").addEventListener("click", () => again?.());
$("help-button").addEventListener("click", () => $("help").showModal());
$("undo-button").addEventListener("click", undo);
$("next-button").addEventListener("click", next);
$("clear-button").addEventListener("click", clear);
$("save-segmentation").addEventListener("click", saveSegmentation);
$("save-clicks").addEventListener("click", saveClicks);
$("opacity").addEventListener("input", () => viewer.setOpacity(Number($("opacity").value)));
$("darkest").addEventListener("input", setContrast);
$("brightest").addEventListener("input", setContrast);
$("layout").addEventListener("change", () => viewer.setLayout($("layout").value));
$("channel").addEventListener("change", () =>
  busy("Loading the channel…", async () => {
    try {
      await viewer.showChannel(await api.bytes(`image?channel=${$("channel").value}`));
      shownChannel = $("channel").value;
      showContrast();
    } catch (error) {
      if (error.status === 410) return fail(error.message, begin);
      $("channel").value = shownChannel;
      tell(error.message, true);
    }
  }),
);
for (const input of document.querySelectorAll("[name=tool]")) input.addEventListener("change", enable);

document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (model && !isBusy) openFiles(event.dataTransfer.files);
});
window.addEventListener("beforeunload", (event) => isSaved || event.preventDefault());
window.addEventListener("pagehide", api.end);
window.addEventListener("pageshow", (event) => event.persisted && location.reload());

const heart = new Worker("/page/assets/heartbeat.js");
heart.onmessage = () => model && api.json("POST", "heartbeat").catch((error) => error.status === 410 && image && fail(error.message, begin));

await begin();
