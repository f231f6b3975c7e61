// The page of the local server: asks for pictures as a stream and shows previews, progress and what was made.
"use strict";

const at = (id) => document.getElementById(id);
const HISTORY = 24;
const SMALL = 256; // pixels: smaller pictures are shown with hard edges
let reference = null; // a data URI, or null
let running = null; // an AbortController, or null
let shown = null; // {url, request, seed}
let answers = false; // whether the model answers in words
let subject = null; // the data URI of the picture that is asked about
const made = [];

function headers() {
  const key = at("key").value || sessionStorage.getItem("key") || "";
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function greet() {
  const answer = await fetch("/v1/models", { headers: headers() });
  if (answer.status === 401) {
    at("model").textContent = "this server asks for a key";
    at("key-box").open = true;
    return;
  }
  const [model] = (await answer.json()).data;
  at("model").textContent = `${model.id} · ${model.recipe} · ${model.sizes}`;
  answers = model.tasks.includes("describe");
  about(subject, "this picture");
}

function asked() {
  const request = { prompt: at("prompt").value.trim(), stream: true, progress: true, partial_images: 3 };
  if (at("size").value) request.size = at("size").value;
  if (at("steps").value) request.num_inference_steps = Number(at("steps").value);
  if (at("guidance").value) request.guidance_scale = Number(at("guidance").value);
  if (at("seed").value) request.seed = Number(at("seed").value);
  if (at("negative").value) request.negative_prompt = at("negative").value;
  if (reference) request.image = reference;
  return request;
}

async function run(event) {
  event?.preventDefault();
  if (running || !at("form").reportValidity()) return;
  if (at("key").value) sessionStorage.setItem("key", at("key").value);
  const request = asked();
  running = new AbortController();
  busy(true);
  try {
    const path = request.image ? "/v1/images/edits" : "/v1/images/generations";
    const body = JSON.stringify(request);
    const answer = await fetch(path, { method: "POST", headers: headers(), body, signal: running.signal });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const [name, data] of events(answer.body)) follow(name, data, request);
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
  running = null;
  busy(false);
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name] = part.match(/^event: (.*)$/m) ?? [];
      const [, data] = part.match(/^data: (.*)$/m);
      if (data !== "[DONE]") yield [name, JSON.parse(data)];
    }
  }
}

function follow(name, data, request) {
  if (name === "error") throw new Error(data.error.message);
  if (name.endsWith(".progress")) {
    at("progress").value = data.step / data.steps;
    at("status").textContent = data.position == null ? `step ${data.step} of ${data.steps}` : `${data.position} before you`;
    return;
  }
  const url = `data:image/${data.output_format};base64,${data.b64_json}`;
  show(url, data.size);
  if (!name.endsWith(".completed")) return;
  finish({ url, request, seed: data.seed, size: data.size });
}

function show(url, size) {
  at("picture").src = url;
  at("picture").hidden = false;
  at("nothing").hidden = true;
  at("picture").toggleAttribute("data-small", Math.max(...size.split("x").map(Number)) < SMALL);
}

function finish(picture) {
  shown = picture;
  made.unshift(picture);
  made.splice(HISTORY);
  caption(picture);
  list();
}

function caption(picture) {
  const { prompt, image } = picture.request;
  at("picture").alt = prompt;
  at("caption").textContent = `${image ? "edit: " : ""}${prompt} · ${picture.size} · seed ${picture.seed}`;
  at("save").href = picture.url;
  about(picture.url, "this picture");
  at("result-actions").hidden = false;
}

function list() {
  at("history-box").hidden = made.length === 0;
  at("history").replaceChildren(
    ...made.map((picture) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      const image = document.createElement("img");
      const text = document.createElement("span");
      button.type = "button";
      image.src = picture.url;
      image.alt = "";
      text.textContent = picture.request.prompt;
      button.append(image, text);
      button.addEventListener("click", () => { shown = picture; show(picture.url, picture.size); caption(picture); });
      item.append(button);
      return item;
    }),
  );
}

function about(uri, name) {
  subject = uri;
  at("ask").hidden = !answers || !uri;
  at("question-label").textContent = `Ask about ${name}`;
  at("answer").hidden = true;
}

async function ask(event) {
  event.preventDefault();
  if (running) return;
  const content = [{ type: "image_url", image_url: { url: subject } }];
  if (at("question").value.trim()) content.push({ type: "text", text: at("question").value.trim() });
  running = new AbortController();
  busy(true);
  at("answer").textContent = "";
  at("answer").hidden = false;
  try {
    const body = JSON.stringify({ messages: [{ role: "user", content }], stream: true });
    const given = { method: "POST", headers: headers(), body, signal: running.signal };
    const answer = await fetch("/v1/chat/completions", given);
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const [, data] of events(answer.body)) {
      if (data.error) throw new Error(data.error.message);
      at("answer").textContent += data.choices[0]?.delta.content ?? "";
    }
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
  running = null;
  busy(false);
}

function busy(on) {
  at("go").disabled = on;
  at("ask-go").disabled = on;
  at("stop").hidden = !on;
  at("work").hidden = !on;
  at("progress").value = 0;
  at("status").textContent = on ? "asking…" : "";
  if (on) at("error").hidden = true;
}

function complain(text) {
  at("error").textContent = text;
  at("error").hidden = false;
}

function edit(uri) {
  reference = uri;
  at("reference").hidden = !uri;
  if (uri) at("reference-picture").src = uri;
  if (uri && uri !== shown?.url) about(uri, "your picture");
  at("prompt-label").textContent = uri ? "What to change" : "Prompt";
  at("prompt").placeholder = uri ? "make the circle blue" : "a red circle and a blue square";
  at("go").firstChild.textContent = uri ? "Edit " : "Generate ";
  at("prompt").focus();
}

function take(file) {
  if (!file || !file.type.startsWith("image/")) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => edit(reader.result));
  reader.readAsDataURL(file);
}

function again() {
  const { request, seed } = shown;
  at("prompt").value = request.prompt;
  at("size").value = request.size ?? "";
  at("steps").value = request.num_inference_steps ?? "";
  at("guidance").value = request.guidance_scale ?? "";
  at("negative").value = request.negative_prompt ?? "";
  at("seed").value = seed;
  edit(request.image ?? null);
}

at("form").addEventListener("submit", run);
at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => running?.abort());
at("upload").addEventListener("change", () => { take(at("upload").files[0]); at("upload").value = ""; });
at("drop-reference").addEventListener("click", () => edit(null));
at("edit-result").addEventListener("click", () => { at("prompt").value = ""; edit(shown.url); });
at("again").addEventListener("click", again);
at("key").addEventListener("change", () => { sessionStorage.setItem("key", at("key").value); greet().catch(() => {}); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  if (event.key === "Escape") running?.abort();
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
greet().catch(() => { at("model").textContent = "the server does not answer"; });
