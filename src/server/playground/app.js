// The playground: conversations, composer, settings. In: what people do. Out: what they see, and short words for those
// who hear the page. A conversation goes on being answered while another one is looked at.

import { ask, conversation as stored, erase, Failure, models, sdkBase } from "./api.js";
import { at, button, element } from "./dom.js";
import { keep, recall } from "./memory.js";
import { closeSettings, closeSide, closeTop, key, openKey, settings, wirePanels } from "./panels.js";
import { Answer, facts, question } from "./turn.js";
import { beganAt, explain } from "./words.js";

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

let conversations = recall().map((kept) => blank(kept));
let current = null;
let service = "";

/**
 * `id` is the service's, from the first whole answer on. `view` shows `past`, which is what the service had before this
 * page, and then the turns of this page, of which it has `own`. `facts` are of turns that it has. `title` is known from
 * the first question on, and after a reload once the past is there. `last` ends when nothing is asked or read any more.
 */
function blank({ id = null, begun = Date.now(), facts: figures = [] } = {}) {
  const past = element("div", { className: "past" });
  const view = element("div", { className: "column" }, past);
  return { id, begun, title: "", facts: figures, view, past, own: 0, running: null, loaded: id === null, last: Promise.resolve() };
}

// ---- What is looked at ----

function open(chosen) {
  current = chosen;
  thread.replaceChildren(chosen.view);
  if (!chosen.loaded) load(chosen);
  else if (chosen.view.childElementCount === 1 && chosen.past.childElementCount === 0) chosen.past.append(welcome());
  listConversations();
  showBusy();
  toLatest();
}

function begin() {
  open(blank());
  message.focus();
}

/** Does one thing after the other with a conversation: what is read while it is added to, is neither before nor after. */
function inTurn(chosen, work) {
  const done = chosen.last.then(work);
  chosen.last = done.catch(() => {});
  return done;
}

/** Shows what the service had before this page, above the turns of this page. */
function load(chosen) {
  chosen.loaded = true;
  chosen.past.replaceChildren(element("p", { className: "waiting", textContent: "Reading the conversation…" }));
  return inTurn(chosen, async () => {
    try {
      const messages = await stored(chosen.id, key());
      chosen.past.replaceChildren(...turnsOf(chosen, messages.slice(0, Math.max(0, messages.length - 2 * chosen.own))));
      chosen.title ||= titleOf(messages.find((one) => one.role === "user")?.content ?? "");
      listConversations();
    } catch (failure) {
      chosen.loaded = false;
      const answer = new Answer(name());
      const help = {
        key: openKey,
        retry: () => load(chosen),
        anew: () => { forget(chosen); begin(); },
      };
      const told = answer.fail(failure, { hasKey: Boolean(key()), help });
      if (failure.status === 404) forget(chosen);
      chosen.past.replaceChildren(answer.node);
      alarm(told);
    }
    if (chosen === current && chosen.own === 0) toLatest();
  });
}

/** Earlier turns. The service keeps the last ones; the figures of those before are of no turn that is shown. */
function turnsOf(chosen, messages) {
  const answers = messages.filter((one) => one.role === "assistant").length;
  const figures = chosen.facts.slice(0, chosen.facts.length - chosen.own).slice(-answers);
  let shown = 0;
  return messages.map((one) => {
    if (one.role === "user") return question(one.content);
    const known = figures.length === answers ? figures[shown] : null;
    shown += 1;
    const answer = new Answer(known?.model ?? "Answer");
    answer.add(one.content);
    answer.finish(known);
    return answer.node;
  });
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
    const title = button("open", "", labelOf(one), () => { open(one); closeSide(); message.focus(); });
    if (one === current) title.ariaCurrent = "true";
    const trash = button("erase", "i-trash", element("span", { className: "vh", textContent: `Delete “${labelOf(one)}”` }), () => remove(one));
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
  at("confirm-text").textContent = `“${labelOf(one)}” is erased from the service at once.`;
  at("confirm").returnValue = "keep";
  at("confirm").showModal();
  await new Promise((closed) => at("confirm").addEventListener("close", closed, { once: true }));
  if (at("confirm").returnValue !== "delete") return;
  one.running?.abort();
  try {
    if (one.id) await erase(one.id, key());
  } catch (failure) {
    const { title, text } = explain(failure, Boolean(key()));
    return notify(`${title}. ${text}`);
  }
  forget(one);
  say("Conversation deleted");
  if (one === current) begin();
}

// ---- Asking ----

async function send(text, chosen) {
  if (chosen.running || !text) return;
  if (!chosen.id) chosen.past.replaceChildren();
  chosen.title ||= titleOf(text);
  if (!conversations.includes(chosen)) conversations.unshift(chosen);
  const answer = new Answer(at("model").value, () => follow(chosen));
  const asked = question(text);
  chosen.view.append(asked, answer.node);
  chosen.running = new AbortController();
  const { signal } = chosen.running;
  open(chosen);
  say("Answering");
  const again = () => {
    asked.remove();
    answer.node.remove();
    send(text, chosen);
    message.focus();
  };
  try {
    // Who stops an answer that waits for its turn does not wait for that.
    await Promise.race([inTurn(chosen, () => answerTo(text, chosen, answer, signal)), aborted(signal)]);
  } catch (failure) {
    if (signal.aborted) {
      answer.stopped(again);
      say("Stopped");
    } else {
      const known = failure instanceof Failure ? failure : new Failure("broken", { message: String(failure.message) });
      const anew = () => { startAnew(chosen); again(); };
      alarm(answer.fail(known, { hasKey: Boolean(key()), help: { key: openKey, retry: again, anew } }));
    }
  }
  chosen.running = null;
  showBusy();
}

const aborted = (signal) =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));

async function answerTo(text, chosen, answer, signal) {
  signal.throwIfAborted();
  const times = { begun: performance.now(), first: null, whole: null };
  const asked = { message: text, conversation_id: chosen.id ?? undefined, ...settings() };
  let about = {};
  for await (const event of ask(asked, { key: key(), signal })) {
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
}

/** The service has lost the conversation: what is shown of it stays, and is not part of the next one. */
function startAnew(chosen) {
  Object.assign(chosen, { id: null, begun: Date.now(), facts: [], own: 0, loaded: true });
  const before = [...chosen.past.childNodes, ...[...chosen.view.children].slice(1)];
  const remark = element("p", { className: "remark" }, "The service does not have what is above any more: here a new conversation begins.");
  chosen.view.replaceChildren(chosen.past, ...before, remark);
}

function whole(chosen, answer, figures, end) {
  if (end.persisted) {
    chosen.id = end.conversation_id;
    chosen.facts.push(figures);
    chosen.own += 1;
  }
  answer.finish(figures);
  keep(conversations);
  const spoken = answer.text.length > SPOKEN_MAX ? `${answer.text.slice(0, SPOKEN_MAX)} … The rest is on the page.` : answer.text;
  say(`${figures.model} answered: ${spoken}`);
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
const titleOf = (text) => text.trim().split("\n")[0].slice(0, 60);
const labelOf = (one) => one.title || beganAt(one.begun);

async function learnModels() {
  const select = at("model");
  const before = select.disabled ? "" : select.value;
  try {
    const known = await models(key());
    service = known.service;
    select.replaceChildren(...known.names.map((model) => element("option", { value: model, textContent: model })));
    select.value = known.names.includes(before) ? before : known.names[0];
    select.disabled = false;
    at("service").textContent = service || "Playground";
    // Of the service alone: browsers write titles down.
    document.title = name();
    return null;
  } catch (failure) {
    select.replaceChildren(element("option", { value: "", textContent: "The service’s own model" }));
    return failure;
  }
}

/** The first look, and the one after a key: a service that wants one, or is not there, says so before anything is asked. */
async function greet() {
  const failure = await learnModels();
  if (!failure && key()) say("The key is accepted");
  if (!current.loaded) return load(current);
  if (conversations.includes(current)) return undefined;
  if (!failure) return current.past.replaceChildren(welcome());
  const answer = new Answer(name());
  const told = answer.fail(failure, { hasKey: Boolean(key()), help: { key: openKey, retry: greet } });
  current.past.replaceChildren(answer.node);
  return alarm(told);
}

function escape(event) {
  if (event.key !== "Escape" || event.defaultPrevented || closeTop()) return;
  if (current.running) current.running.abort();
  else closeSettings();
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
  message.addEventListener("input", typed);
  at("stop").addEventListener("click", () => current.running?.abort());
  at("new").addEventListener("click", () => { closeSide(); begin(); });
  wirePanels({ keyChanged: greet, base: sdkBase });
  thread.addEventListener("scroll", scrolled, { passive: true });
  // Who stood at the end stays there when the settings take room, or the keyboard of a phone.
  new ResizeObserver(() => follow(current)).observe(thread);
  at("latest").addEventListener("click", () => { toLatest(); thread.focus(); });
  document.addEventListener("keydown", escape);
}

wire();
open(conversations[0] ?? blank());
greet();
// Where it would bring up a keyboard over half of the screen, it waits to be asked.
if (!matchMedia("(pointer: coarse)").matches) message.focus();
