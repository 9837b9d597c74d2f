// The playground: conversations, composer, settings. In: what people do. Out: what they see, and short words for those
// who hear the page. A conversation goes on being answered while another one is looked at.

import { ask, conversation as stored, erase, Failure, models, sdkBase } from "./api.js";
import { at, button, element } from "./dom.js";
import { keep, recall } from "./memory.js";
import { snippets } from "./snippets.js";
import { codeBlock } from "./text.js";
import { Answer, facts, question } from "./turn.js";
import { explain } from "./words.js";

/** Longest message that the service takes. */
const MESSAGE_MAX = 5000;
/** From here on what is left is shown. */
const MESSAGE_NEAR = 4500;
/** What is read aloud of an answer; the rest is found on the page. */
const SPOKEN_MAX = 600;
const IDEAS = [
  "Explain Kubernetes operators in two sentences",
  "Write a haiku about rate limits",
  "Show a Rust function that reverses a string",
];

const thread = at("thread");
const message = at("message");
const narrow = matchMedia("(max-width: 780px)");
const overlaid = matchMedia("(max-width: 1100px)");

/** `{ id, title, facts, view, running, loaded }`; `id` is the service's, from the first whole answer on. */
let conversations = recall().map((kept) => blank(kept));
let current = null;
let service = "";
let temperature = null;

function blank({ id = null, title = "New conversation", facts: figures = [] } = {}) {
  const view = element("div", { className: "column" });
  return { id, title, facts: figures, view, running: null, loaded: id === null };
}

// ---- What is looked at ----

function open(chosen) {
  current = chosen;
  thread.replaceChildren(chosen.view);
  if (chosen.view.children.length === 0 && chosen.loaded) chosen.view.append(welcome());
  if (!chosen.loaded) load(chosen);
  document.title = titleOf(chosen);
  listConversations();
  showBusy();
  toLatest();
}

function begin() {
  open(blank());
  message.focus();
}

async function load(chosen) {
  chosen.loaded = true;
  try {
    const messages = await stored(chosen.id, at("key").value);
    const answers = messages.filter((one) => one.role === "assistant").length;
    // The service keeps the last turns; the figures of earlier ones are of no turn that is shown.
    const figures = chosen.facts.slice(-answers);
    chosen.view.replaceChildren();
    for (const one of messages) {
      if (one.role === "user") {
        chosen.view.append(question(one.content));
        continue;
      }
      const known = figures.length === answers ? figures[chosen.view.querySelectorAll(".theirs").length] : null;
      const answer = new Answer(known?.model ?? "Answer");
      answer.add(one.content);
      answer.finish(known);
      chosen.view.append(answer.node);
    }
    if (chosen === current) toLatest();
  } catch (failure) {
    chosen.loaded = false;
    const answer = new Answer(name());
    const help = {
      key: openKey,
      retry: () => load(chosen),
      anew: () => { forget(chosen); begin(); },
    };
    const told = answer.fail(failure, { hasKey: Boolean(at("key").value), help });
    if (failure.status === 404) forget(chosen);
    chosen.view.replaceChildren(answer.node);
    alarm(told);
  }
}

function welcome() {
  const ideas = IDEAS.map((idea) => button("", "", idea, () => {
    message.value = idea;
    typed();
    message.focus();
  }));
  return element("div", { className: "welcome" },
    element("h2", { textContent: service ? `Talk to ${service}` : "Begin a conversation" }),
    element("p", { textContent: "Ask something. Each answer shows what it took: tokens, cost, cache and what is left of the limits." }),
    element("div", { className: "ideas" }, ...ideas));
}

function listConversations() {
  at("list").replaceChildren(...conversations.map((one) => {
    const title = button("open", "", one.title, () => { open(one); closeSide(); message.focus(); });
    if (one === current) title.ariaCurrent = "true";
    const trash = button("erase", "i-trash", element("span", { className: "vh", textContent: `Delete “${one.title}”` }), () => remove(one));
    return element("li", { className: one === current ? "current" : "" }, title, trash);
  }));
  at("list-empty").hidden = conversations.length > 0;
  keep(conversations);
}

function forget(one) {
  conversations = conversations.filter((other) => other !== one);
  listConversations();
}

async function remove(one) {
  at("confirm-text").textContent = `“${one.title}” is erased from the service at once.`;
  at("confirm").returnValue = "keep";
  at("confirm").showModal();
  await new Promise((closed) => at("confirm").addEventListener("close", closed, { once: true }));
  if (at("confirm").returnValue !== "delete") return;
  one.running?.abort();
  try {
    if (one.id) await erase(one.id, at("key").value);
  } catch (failure) {
    const { title, text } = explain(failure, Boolean(at("key").value));
    return notify(`${title}. ${text}`);
  }
  forget(one);
  say("Conversation deleted");
  if (one === current) begin();
}

// ---- Asking ----

async function send(text, chosen) {
  if (chosen.running || !text) return;
  chosen.view.querySelector(".welcome")?.remove();
  if (!conversations.includes(chosen)) {
    chosen.title = text.split("\n")[0].slice(0, 60);
    conversations.unshift(chosen);
  }
  const answer = new Answer(at("model").value, () => follow(chosen));
  const asked = question(text);
  chosen.view.append(asked, answer.node);
  chosen.running = new AbortController();
  open(chosen);
  say("Answering");
  const again = () => {
    asked.remove();
    answer.node.remove();
    send(text, chosen);
    message.focus();
  };
  const times = { begun: performance.now(), first: null, whole: null };
  let about = {};
  try {
    for await (const event of ask(request(text, chosen), { key: at("key").value, signal: chosen.running.signal })) {
      about = event.about ?? about;
      if (event.delta) {
        times.first ??= performance.now() - times.begun;
        answer.add(event.delta);
      }
      if (event.end) {
        times.whole = performance.now() - times.begun;
        whole(chosen, answer, facts(event.end, about, times), event.end);
      }
    }
  } catch (failure) {
    if (chosen.running.signal.aborted) {
      answer.stopped(again);
      say("Stopped");
    } else {
      const known = failure instanceof Failure ? failure : new Failure("broken", { message: String(failure.message) });
      const anew = () => { chosen.id = null; again(); };
      const help = { key: openKey, retry: again, anew };
      alarm(answer.fail(known, { hasKey: Boolean(at("key").value), help }));
    }
  }
  chosen.running = null;
  showBusy();
}

function whole(chosen, answer, figures, end) {
  if (end.persisted) chosen.id = end.conversation_id;
  chosen.facts.push(figures);
  answer.finish(figures);
  keep(conversations);
  const spoken = answer.text.length > SPOKEN_MAX ? `${answer.text.slice(0, SPOKEN_MAX)} … The rest is on the page.` : answer.text;
  say(`${figures.model} answered: ${spoken}`);
}

function request(text, chosen) {
  const maxTokens = at("max-tokens").valueAsNumber;
  return {
    message: text,
    model: at("model").value || undefined,
    conversation_id: chosen.id ?? undefined,
    temperature: temperature ?? undefined,
    max_tokens: Number.isNaN(maxTokens) ? undefined : maxTokens,
    system_prompt: at("system").value.trim() || undefined,
  };
}

function showBusy() {
  const busy = Boolean(current.running);
  const had = document.activeElement;
  at("stop").hidden = !busy;
  at("send").hidden = busy;
  // What had the focus and is gone must not leave it nowhere.
  if (had?.hidden) message.focus();
  typed();
}

function typed() {
  const length = message.value.trim().length;
  const over = length > MESSAGE_MAX;
  at("send").disabled = length === 0 || over;
  at("count").textContent = length > MESSAGE_NEAR ? `${length} of ${MESSAGE_MAX} characters` : "";
  at("count").className = over ? "over" : "";
  if (!CSS.supports("field-sizing", "content")) {
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight}px`;
  }
}

// ---- Where the page stands, and what is heard of it ----

let following = true;

function follow(chosen) {
  if (chosen === current && following) thread.scrollTop = thread.scrollHeight;
}

function toLatest() {
  following = true;
  thread.scrollTop = thread.scrollHeight;
  at("latest").hidden = true;
}

function scrolled() {
  following = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 60;
  at("latest").hidden = following;
}

function say(text) {
  at("said").textContent = text;
}

function alarm(text) {
  say("");
  at("alarm").textContent = text;
}

/** A failure that belongs to no turn. */
function notify(text) {
  const card = element("p", { className: "remark" }, text);
  current.view.append(card);
  toLatest();
  alarm(text);
}

// ---- Around it ----

const name = () => (service ? `${service} playground` : "Playground");
const titleOf = (one) => (conversations.includes(one) ? `${one.title} · ${name()}` : name());

async function learnModels() {
  const select = at("model");
  const before = select.disabled ? "" : select.value;
  try {
    const known = await models(at("key").value);
    service = known.service;
    select.replaceChildren(...known.names.map((model) => element("option", { value: model, textContent: model })));
    select.value = known.names.includes(before) ? before : known.names[0];
    select.disabled = false;
    at("service").textContent = service || "Playground";
    document.title = titleOf(current);
    return null;
  } catch (failure) {
    select.replaceChildren(element("option", { value: "", textContent: "The service’s own model" }));
    return failure;
  }
}

/** The first look, and the one after a key: a service that wants one, or is not there, says so before anything is asked. */
async function greet() {
  const failure = await learnModels();
  if (!failure && at("key").value) say("The key is accepted");
  if (!current.loaded) return load(current);
  if (conversations.includes(current)) return undefined;
  if (!failure) return current.view.replaceChildren(welcome());
  const answer = new Answer(name());
  const told = answer.fail(failure, { hasKey: Boolean(at("key").value), help: { key: openKey, retry: greet } });
  current.view.replaceChildren(answer.node);
  return alarm(told);
}

function openSide() {
  at("app").classList.add("with-list");
  at("open-side").ariaExpanded = "true";
  at("main").inert = true;
  at("close-side").focus();
}

function closeSide() {
  const was = at("app").classList.contains("with-list");
  at("app").classList.remove("with-list");
  at("open-side").ariaExpanded = "false";
  at("main").inert = false;
  if (was) at("open-side").focus();
}

function showSettings(shown) {
  at("settings").hidden = !shown;
  at("app").classList.toggle("with-settings", shown);
  at("toggle-settings").ariaExpanded = String(shown);
  const over = shown && overlaid.matches;
  at("main").inert = over;
  at("side").inert = over;
  if (shown) at("close-settings").focus();
  else at("toggle-settings").focus();
}

function openKey() {
  showSettings(true);
  at("key").focus();
}

function showTemperature() {
  at("temperature-now").textContent = temperature === null ? "default" : temperature.toFixed(1);
  at("temperature-reset").hidden = temperature === null;
}

function showCode(language) {
  const sources = snippets({ base: sdkBase, model: at("model").value, hasKey: Boolean(at("key").value) });
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const chosen = tab.id === `tab-${language}`;
    tab.ariaSelected = String(chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  at("snippet").setAttribute("aria-labelledby", `tab-${language}`);
  at("snippet").replaceChildren(codeBlock({ language, text: sources[language] }));
}

function tabKeys(event) {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  showCode(next.id.slice("tab-".length));
  next.focus();
}

function escape(event) {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (at("app").classList.contains("with-list")) closeSide();
  else if (current.running) current.running.abort();
  else if (!at("settings").hidden) showSettings(false);
}

function wire() {
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || text.length > MESSAGE_MAX || current.running) return;
    if (!at("max-tokens").reportValidity()) return;
    message.value = "";
    send(text, current);
    message.focus();
  });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("composer").requestSubmit();
    }
  });
  at("fields").addEventListener("submit", (event) => event.preventDefault());
  message.addEventListener("input", typed);
  at("stop").addEventListener("click", () => current.running?.abort());
  at("new").addEventListener("click", () => { closeSide(); begin(); });
  at("open-side").addEventListener("click", openSide);
  at("close-side").addEventListener("click", closeSide);
  at("scrim").addEventListener("click", () => (at("settings").hidden ? closeSide() : showSettings(false)));
  at("toggle-settings").addEventListener("click", () => showSettings(at("settings").hidden));
  at("close-settings").addEventListener("click", () => showSettings(false));
  at("key").addEventListener("change", greet);
  at("temperature").addEventListener("input", () => { temperature = at("temperature").valueAsNumber; showTemperature(); });
  at("temperature-reset").addEventListener("click", () => { temperature = null; showTemperature(); at("temperature").focus(); });
  at("theme").addEventListener("change", () => { document.documentElement.dataset.theme = at("theme").value; });
  at("open-code").addEventListener("click", () => { showCode("python"); at("code").showModal(); });
  at("close-code").addEventListener("click", () => at("code").close());
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    tab.addEventListener("click", () => showCode(tab.id.slice("tab-".length)));
    tab.addEventListener("keydown", tabKeys);
  }
  thread.addEventListener("scroll", scrolled, { passive: true });
  at("latest").addEventListener("click", () => { toLatest(); thread.focus(); });
  document.addEventListener("keydown", escape);
  narrow.addEventListener("change", closeSide);
}

wire();
open(conversations[0] ?? blank());
greet();
// Where it would bring up a keyboard over half of the screen, it waits to be asked.
if (!matchMedia("(pointer: coarse)").matches) message.focus();
