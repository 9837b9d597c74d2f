// What opens and closes around the conversation: the list on a narrow screen, the settings, the code. In: what people
// press. Out: what is shown and where the focus is; the settings as they stand.

import { codeBlock } from "./code.js";
import { at } from "./dom.js";
import { snippets } from "./snippets.js";

const narrow = matchMedia("(max-width: 780px)");
const overlaid = matchMedia("(max-width: 1100px)");

let temperature = null;

/** The key, in memory only, or "". */
export const key = () => at("key").value;

/** What a question takes from the settings; undefined: the service's own. */
export function settings() {
  const maxTokens = at("max-tokens").valueAsNumber;
  return {
    model: at("model").value || undefined,
    temperature: temperature ?? undefined,
    max_tokens: Number.isNaN(maxTokens) ? undefined : maxTokens,
    system_prompt: at("system").value.trim() || undefined,
  };
}

/** Shows where the key is put in. */
export function openKey() {
  showSettings(true);
  at("key").focus();
}

/** Closes the list, where it lies over the rest. */
export function closeSide() {
  const was = at("app").classList.contains("with-list");
  at("app").classList.remove("with-list");
  at("open-side").ariaExpanded = "false";
  at("main").inert = false;
  if (was) at("open-side").focus();
}

/** Closes what lies on top; whether there was something. */
export function closeTop() {
  if (document.querySelector("dialog[open]")) return true;
  if (at("app").classList.contains("with-list")) closeSide();
  else if (!at("settings").hidden && overlaid.matches) showSettings(false);
  else return false;
  return true;
}

/** Closes the settings, where they stand beside the rest. */
export function closeSettings() {
  if (!at("settings").hidden) showSettings(false);
}

/** `keyChanged` is called with another key; `base` is where an SDK asks. */
export function wirePanels({ keyChanged, base }) {
  at("fields").addEventListener("submit", (event) => event.preventDefault());
  at("open-side").addEventListener("click", openSide);
  at("close-side").addEventListener("click", closeSide);
  at("scrim").addEventListener("click", () => (at("settings").hidden ? closeSide() : showSettings(false)));
  at("toggle-settings").addEventListener("click", () => showSettings(at("settings").hidden));
  at("close-settings").addEventListener("click", () => showSettings(false));
  at("key").addEventListener("change", keyChanged);
  at("temperature").addEventListener("input", () => { temperature = at("temperature").valueAsNumber; showTemperature(); });
  at("temperature-reset").addEventListener("click", () => { temperature = null; showTemperature(); at("temperature").focus(); });
  at("theme").addEventListener("change", () => { document.documentElement.dataset.theme = at("theme").value; });
  at("open-code").addEventListener("click", () => { showCode("python", base); at("code").showModal(); });
  at("close-code").addEventListener("click", () => at("code").close());
  for (const tab of tabs()) {
    tab.addEventListener("click", () => showCode(languageOf(tab), base));
    tab.addEventListener("keydown", (event) => nextTab(event, base));
  }
  narrow.addEventListener("change", closeSide);
}

function openSide() {
  at("app").classList.add("with-list");
  at("open-side").ariaExpanded = "true";
  at("main").inert = true;
  at("close-side").focus();
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

function showTemperature() {
  at("temperature-now").textContent = temperature === null ? "default" : temperature.toFixed(1);
  at("temperature-reset").hidden = temperature === null;
}

const tabs = () => [...document.querySelectorAll('[role="tab"]')];
const languageOf = (tab) => tab.id.slice("tab-".length);

function showCode(language, base) {
  const sources = snippets({ base, model: at("model").value, hasKey: Boolean(key()) });
  for (const tab of tabs()) {
    const chosen = languageOf(tab) === language;
    tab.ariaSelected = String(chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  at("snippet").setAttribute("aria-labelledby", `tab-${language}`);
  // Of the names of languages that colours are known by.
  const name = { python: "python", node: "js", curl: "sh" }[language];
  at("snippet").replaceChildren(codeBlock({ language: name, text: sources[language] }));
}

function nextTab(event, base) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const all = tabs();
  const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
  showCode(languageOf(next), base);
  next.focus();
}
