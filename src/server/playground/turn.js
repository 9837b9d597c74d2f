// One turn on the page: what was asked and what comes back. In: pieces of an answer, its end or its failure. Out: two
// articles, kept up to date once a frame at most.

import { copyButton } from "./copy.js";
import { button, element, icon } from "./dom.js";
import { blocks, literal } from "./markdown.js";
import { show } from "./text.js";
import { count, dollars, duration, explain, finePrint } from "./words.js";

/** Why an answer ended before the model was done with it, in words. */
const ENDS = {
  length: "Cut at the longest length that was asked for.",
  content_filter: "Cut by the model’s content filter.",
};

/** What was asked. */
export function question(text) {
  const place = element("div", { className: "text" });
  show(place, literal(text));
  return element("article", { className: "mine", ariaLabel: "You" }, place);
}

/** What comes back. */
export class Answer {
  #text = "";
  #place = element("div", { className: "text" });
  #name = element("h2");
  #top;
  #frame = 0;
  #grown;

  /** `grown` is called after the page has changed. */
  constructor(model, grown = () => {}) {
    this.#grown = grown;
    this.#name.textContent = model;
    this.#top = element("div", { className: "who" }, this.#name);
    this.node = element("article", { className: "theirs busy", ariaLabel: `Answer of ${model}` }, this.#top, this.#place);
  }

  get text() {
    return this.#text;
  }

  /** The next piece. */
  add(piece) {
    this.#text += piece;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  /** It is whole. `facts` is what `figures` makes, or nothing for an answer of an earlier visit. */
  finish(facts) {
    this.#settle();
    if (facts) {
      this.#name.textContent = facts.model;
      this.node.append(figures(facts), ...left(facts.limits ?? {}));
    }
    const remark = facts && (ENDS[facts.finish] ?? (facts.persisted ? "" : "Not remembered: the service’s store was away. The next message will not know of this one."));
    if (remark) this.node.append(element("p", { className: "remark" }, remark));
    if (this.#text) this.#top.append(copyButton(() => this.#text, "Copy the answer"));
    this.#grown();
  }

  /** Its reader has had enough. */
  stopped(again) {
    this.#settle();
    this.node.append(element("div", { className: "stopped" },
      element("p", {}, "Stopped. It is not part of the conversation."), button("ghost framed", "", "Ask again", again)));
    this.#grown();
  }

  /** There is none, or no more of it. `help` has a function for what the failure says can be done. */
  fail(failure, { hasKey, help }) {
    this.#settle();
    const { title, text, can } = explain(failure, hasKey);
    const fine = finePrint(failure);
    const card = element("div", { className: "failure" }, icon("i-alert"), element("h3", { textContent: title }));
    if (text) card.append(element("p", { textContent: text }));
    if (failure.status === 429 && failure.limits) card.append(...left(failure.limits));
    if (fine) card.append(element("p", { className: "fine", textContent: fine }));
    const labels = { key: "Open settings", retry: "Try again", anew: "Ask in a new conversation" };
    if (can) {
      const act = button("solid-button", "", labels[can], help[can]);
      if (can === "retry" && failure.retryAfter > 0) countDown(act, labels.retry, failure.retryAfter);
      card.append(element("div", { className: "choices" }, act));
    }
    this.node.append(card);
    this.#grown();
    return `${title}. ${text}`;
  }

  #draw() {
    this.#frame = 0;
    show(this.#place, blocks(this.#text));
    this.#grown();
  }

  #settle() {
    cancelAnimationFrame(this.#frame);
    this.#draw();
    this.node.classList.remove("busy");
    if (!this.#text) this.#place.remove();
  }
}

/** What there is to know of an answer, small enough to be remembered. */
export function facts(end, about, times) {
  return {
    model: end.model, tokens: end.tokens_used, cost: end.cost_estimate, persisted: end.persisted,
    finish: end.finish_reason, cache: about.cache ?? (end.cached ? "hit" : null),
    limits: { requests: about.requests, tokens: about.tokens }, first: times.first, whole: times.whole,
  };
}

function figures(facts) {
  const list = element("dl", { className: "facts" });
  add(list, "Tokens", facts.tokens === null ? "not told" : count(facts.tokens));
  add(list, "Cost", facts.cost === null ? "price unknown" : dollars(facts.cost));
  const cache = { hit: "hit", miss: "miss", coalesced: "shared", bypass: "off" }[facts.cache];
  if (cache) add(list, "Cache", cache, facts.cache === "hit" || facts.cache === "coalesced" ? "good" : "");
  add(list, "Time", facts.first === null ? duration(facts.whole) : `${duration(facts.whole)}, first word ${duration(facts.first)}`);
  return list;
}

/** What is left of the limits, where there are any. */
function left({ requests, tokens }) {
  const list = element("dl", { className: "facts" });
  for (const [term, pair] of [["Requests left", requests], ["Tokens left", tokens]]) {
    if (pair) add(list, term, `${count(pair.remaining)} of ${count(pair.limit)}`, pair.remaining < pair.limit / 10 ? "low" : "");
  }
  return list.childElementCount > 0 ? [list] : [];
}

function add(list, term, value, tone = "") {
  list.append(element("div", { className: tone }, element("dt", { textContent: term }), element("dd", { textContent: value })));
}

/** A button that can be pressed when it is worth it. */
function countDown(act, label, seconds) {
  const end = Date.now() + seconds * 1000;
  act.disabled = true;
  const tick = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    act.textContent = left > 0 ? `${label} in ${left} s` : label;
    act.disabled = left > 0;
    if (left <= 0) clearInterval(timer);
  };
  const timer = setInterval(tick, 250);
  tick();
}
