// One case of the pages in a headless Chromium. In: the case, the server's URL. Out: exit code 0, or what was wrong; the
// line "gate" when the backend is to go on. Every page fails that asks another host, or that its own policy stops. Where
// CHATSERVICE_SCREENSHOTS names a folder, it gets a picture of each state that the rules of axe-core are held to.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const DESK = { viewport: { width: 1280, height: 820 } };
const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
/** On a busy machine everything takes long; nothing waits longer than it must. */
const PATIENCE = 60_000;

const [name, url] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
const wrong = [];

/** A tab of its own. `expected` are statuses that the page is meant to meet. */
async function tab(path, options = DESK, expected = []) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.on("request", (request) => {
    const { hostname, protocol } = new URL(request.url());
    if (hostname !== "127.0.0.1" && protocol !== "data:") wrong.push(`asked ${request.url()}`);
  });
  page.on("pageerror", (error) => wrong.push(`threw ${error.stack}`));
  page.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && !expected.some((part) => text.includes(part))) wrong.push(`said ${text}`);
  });
  await page.goto(url + path);
  return page;
}

async function playground(options, expected) {
  const page = await tab("/playground", options, expected);
  await page.locator("#model:not([disabled])").waitFor();
  return page;
}

async function picture(page, name) {
  const folder = process.env.CHATSERVICE_SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, `${name.replaceAll(" ", "-")}.png`) });
}

const gate = () => console.log("gate");
const answers = (page) => page.locator(".theirs");
const last = (page) => answers(page).last();

async function ask(page, text) {
  await page.locator("#message").fill(text);
  await page.locator("#send").click();
}

/** The last answer has ended, in whatever way. */
async function ended(page) {
  await page.waitForFunction(() => [...document.querySelectorAll(".theirs")].at(-1)?.classList.contains("busy") === false);
  return last(page);
}

async function figure(page, term) {
  return (await last(page)).locator(".facts > div").filter({ has: page.locator("dt", { hasText: new RegExp(`^${term}$`) }) }).locator("dd").textContent();
}

async function holds(locator, text) {
  await locator.filter({ hasText: text }).first().waitFor();
}

/** The reference shows Execute before the body that it sends: to press it until then does nothing. */
const filled = (page) => holds(page.locator("#operations-chat-chat .body-param__text"), "message");

/** What was asked, from top to bottom. */
const asked = (page) => page.locator(".mine .text").allTextContents();

/** What a screen reader is told, once it is told this. */
const told = (page, id, text) => holds(page.locator(`#${id}`), text);

const cases = {
  async converse() {
    const page = await playground();
    await holds(page.locator(".welcome h2"), "demo");
    await ask(page, "A first question");
    await holds(last(page).locator(".text"), "word0 word1");
    assert.equal(await last(page).locator(".facts").count(), 0, "the figures come at the end");
    assert.ok(await page.locator("#stop").isVisible(), "it can be stopped");
    gate();
    const answer = await ended(page);
    assert.equal(await answer.locator(".text").textContent(), "word0 word1 word2");
    assert.equal(await figure(page, "Tokens"), "10");
    assert.match(await figure(page, "Cost"), /^\$0\.0000\d+$/);
    assert.equal(await figure(page, "Cache"), "miss");
    assert.match(await figure(page, "Requests left"), /^\d+ of 600$/);
    assert.match(await figure(page, "Tokens left"), /^[\d,]+ of 100,000$/);
    await told(page, "said", "gpt-4o-mini answered: word0 word1 word2");
    assert.equal(await page.evaluate(() => document.activeElement.id), "message", "the focus stays where one writes");

    await ask(page, "A second one");
    await ended(page);
    await page.locator("#new").click();
    await ask(page, "A first question");
    await ended(page);
    assert.equal(await figure(page, "Cache"), "hit");
    assert.equal(await figure(page, "Cost"), "$0");

    // Nothing that was asked or answered is written down by the browser, the title of the page included.
    const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.title]));
    assert.doesNotMatch(kept, /question|second|word\d/);

    // The list survives a reload, the text comes from the service, and the other conversation is still there.
    await page.reload();
    assert.equal(await page.locator("#list li").count(), 2);
    await holds(page.locator(".theirs .text"), "word0 word1 word2");
    await holds(page.locator("#list .open").nth(0), "A first question");
    const other = page.locator("#list .open").nth(1);
    assert.match(await other.textContent(), /^Conversation of \d+:\d\d.[AP]M$/);
    await other.click();
    await page.waitForFunction(() => document.querySelectorAll(".theirs").length === 2);
    await holds(other, "A first question");
    assert.equal(await figure(page, "Tokens"), "9", "figures are remembered");
    await page.locator("#list .erase").nth(1).click();
    await page.locator("#confirm .danger").click();
    await page.waitForFunction(() => document.querySelectorAll("#list li").length === 1);
    await told(page, "said", "Conversation deleted");
  },

  /** What was there before stays above what is asked while it is read, and after it could not be. */
  async history() {
    const page = await playground(DESK, ["ERR_FAILED"]);
    const questions = [];
    page.on("request", (request) => request.method() === "POST" && questions.push(request.url()));
    await ask(page, "One");
    await ended(page);
    const reads = "**/api/v1/conversations/*";
    let go;
    const held = new Promise((resolve) => { go = resolve; });
    await page.route(reads, async (route) => { await held; await route.continue(); });
    await page.reload();
    await holds(page.locator(".waiting"), "Reading the conversation");
    await ask(page, "Two");
    await page.locator("#stop").click();
    await holds(await ended(page), "Stopped");
    await last(page).getByRole("button", { name: "Ask again" }).click();
    assert.deepEqual(await asked(page), ["Two"]);
    assert.equal(questions.length, 1, "what was before is there first");
    go();
    await page.waitForFunction(() => document.querySelectorAll(".theirs .facts").length >= 4);
    await ended(page);
    assert.deepEqual(await asked(page), ["One", "Two"]);
    assert.equal(questions.length, 2);

    await page.unroute(reads);
    await page.route(reads, (route) => route.abort());
    await page.reload();
    await holds(page.locator(".past .failure"), "The service cannot be reached");
    await ask(page, "Three");
    await ended(page);
    await holds(last(page).locator(".text"), "word0");
    await holds(page.locator(".past .failure"), "The service cannot be reached");
    assert.deepEqual(await asked(page), ["Three"]);
    await page.unroute(reads);
    await page.locator(".past .failure").getByRole("button", { name: "Try again" }).click();
    await page.waitForFunction(() => document.querySelectorAll(".mine").length > 1);
    assert.deepEqual(await asked(page), ["One", "Two", "Three"]);
    assert.equal(await page.locator(".failure").count(), 0);
  },

  /** A conversation that the service has lost goes on as another one, and the page says from where. */
  async lost() {
    const page = await playground(DESK, ["status of 404"]);
    await ask(page, "Before");
    await ended(page);
    const [{ id }] = await page.evaluate(() => JSON.parse(Object.values(sessionStorage)[0]));
    await page.request.delete(`${url}/api/v1/conversations/${id}`);
    await ask(page, "After");
    await holds(await ended(page), "This conversation is gone");
    await page.getByRole("button", { name: "Ask in a new conversation" }).click();
    await holds(page.locator(".remark"), "here a new conversation begins");
    await page.waitForFunction(() => document.querySelectorAll(".theirs:not(.busy)").length === 2);
    assert.deepEqual(await asked(page), ["Before", "After"]);
    assert.equal(await page.locator("#list li").count(), 1);
    await page.reload();
    await holds(page.locator(".theirs .text"), "word0");
    assert.deepEqual(await asked(page), ["After"]);
  },

  async text_is_text() {
    const page = await playground();
    await ask(page, "<img src=x onerror=alert(1)> and `code`");
    const answer = await ended(page);
    assert.equal(await page.locator(".thread img, .thread script, .thread b").count(), 0);
    assert.equal(await answer.locator("pre code").textContent(), "<b>not bold</b>\n  indented");
    assert.equal(await answer.locator("p code").textContent(), "x < 1");
    assert.match(await answer.locator(".text").textContent(), /<script>alert\(1\)<\/script>/);
    // Markdown has a form, without a picture, and with links that show where they lead.
    assert.equal(await answer.locator(".text > h3").textContent(), "A heading");
    assert.deepEqual(await answer.locator(".text > ol > li > strong, .text > ol > li > em").allTextContents(), ["strong", "so so"]);
    assert.equal(await answer.locator("ol > li > ul > li").textContent(), "nested");
    assert.equal(await answer.locator("blockquote").textContent(), "quoted");
    assert.deepEqual(await answer.locator("td").allTextContents(), ["1 < 2", "snake_case * 2"]);
    const links = await answer.locator("a").evaluateAll((all) => all.map((one) => [one.textContent, one.getAttribute("href"), one.rel]));
    const rel = "noopener noreferrer nofollow";
    assert.deepEqual(links, ["https://a.invalid/x", "https://a.invalid/p.png"].map((link) => [link, link, rel]));
    assert.match(await answer.locator(".text > p").last().textContent(), /^A link \(.*, \[none\]\(javascript:alert\(1\)\)/);
    assert.equal(await page.locator(".mine code").textContent(), "code");
    await assert.rejects(page.evaluate(() => { document.body.innerHTML = "<p>markup</p>"; }), /TrustedHTML/);
    wrong.splice(0, wrong.length, ...wrong.filter((one) => !one.includes("TrustedHTML")));
  },

  async stop() {
    const page = await playground();
    await ask(page, "Begin");
    await holds(last(page).locator(".text"), "word0");
    await page.locator("#stop").click();
    await holds(await ended(page), "Stopped. It is not part of the conversation.");
    await told(page, "said", "Stopped");
    await last(page).getByRole("button", { name: "Ask again" }).click();
    await holds(last(page).locator(".text"), "word0");
    await page.keyboard.press("Escape");
    await holds(await ended(page), "Stopped");
    assert.equal(await answers(page).count(), 1, "who asks again replaces what was stopped");
  },

  async errors() {
    const page = await playground(DESK, ["status of 429", "status of 503", "ERR_INTERNET_DISCONNECTED"]);
    await ask(page, "Break off");
    await holds(await ended(page), "The answer broke off");
    await holds(last(page).locator(".text"), "word0 word1");
    await told(page, "alarm", "The answer broke off");

    await last(page).getByRole("button", { name: "Try again" }).click();
    await holds(await ended(page), "The model cannot be reached");

    await last(page).getByRole("button", { name: "Try again" }).click();
    await holds(last(page), "A limit is reached");
    await holds(last(page).locator(".failure .facts"), "Requests left");
    const again = last(page).locator(".solid-button");
    assert.ok(await again.isDisabled(), "not before its time");
    assert.match(await again.textContent(), /^Try again in \d s$/);
    await page.locator(".solid-button:enabled").click();
    await holds(await ended(page), "word0");
    assert.equal(await page.locator(".failure").count(), 0);

    await page.context().setOffline(true);
    await ask(page, "Nobody there");
    await holds(await ended(page), "The service cannot be reached");
    await page.context().setOffline(false);
    await last(page).getByRole("button", { name: "Try again" }).click();
    await holds(last(page).locator(".text"), "word0 word1");
    await ended(page);

    await page.locator("#message").fill("x".repeat(5001));
    assert.ok(await page.locator("#send").isDisabled());
    await holds(page.locator("#count"), "5001 of 5000 characters");
  },

  async key() {
    // Not by `playground`: without a key there are no models to wait for.
    const page = await tab("/playground", DESK, ["status of 401"]);
    const sent = [];
    page.on("request", (request) => request.method() === "POST" && sent.push(request.headers().authorization));
    const put = async (key) => {
      await page.locator("#key").fill("");
      await page.keyboard.type(key);
      await page.keyboard.press("Enter");
    };
    await holds(page.locator(".failure"), "This service asks for an API key");
    await told(page, "alarm", "This service asks for an API key");
    await page.getByRole("button", { name: "Open settings" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "key", "one can put it in at once");
    await put("sk-web-0123456789abcdefghij");
    await page.locator("#model:not([disabled])").waitFor();
    await told(page, "said", "The key is accepted");
    assert.equal(await page.locator(".failure").count(), 0);
    await ask(page, "With a key");
    await holds(await ended(page), "word0 word1");

    await put("sk-web-that-was-taken-away");
    await ask(page, "With a wrong one");
    await holds(await ended(page), "The key was not accepted");
    await last(page).getByRole("button", { name: "Open settings" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");
    await put("sk-web-0123456789abcdefghij");
    await ask(page, "With the right one again");
    await holds(await ended(page), "word0 word1 word2");
    assert.deepEqual(sent, ["0123456789abcdefghij", "that-was-taken-away", "0123456789abcdefghij"].map((key) => `Bearer sk-web-${key}`));
  },

  async keyboard() {
    const page = await playground();
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim());
    assert.equal(await focused(), "message", "one can write at once");
    await page.keyboard.type("By hand");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two lines");
    await page.keyboard.press("Enter");
    await ended(page);
    assert.equal(await page.locator(".mine .text").textContent(), "By hand\ntwo lines");

    const walk = async (until, key = "Tab") => {
      for (let step = 0; step < 40; step++) {
        if ((await focused()) === until) return;
        await page.keyboard.press(key);
      }
      assert.fail(`${until} is not reached with ${key}`);
    };
    await walk("toggle-settings", "Shift+Tab");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "close-settings");
    await walk("temperature");
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.locator("#temperature-now").textContent(), "0.8");
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#settings").isHidden());
    assert.equal(await focused(), "toggle-settings");

    await walk("open-code", "Shift+Tab");
    await page.keyboard.press("Enter");
    await page.locator("#code[open]").waitFor();
    await walk("tab-python");
    await page.keyboard.press("ArrowRight");
    await holds(page.locator("#snippet"), 'import OpenAI from "openai"');
    await page.keyboard.press("Escape");
    await page.locator("#code:not([open])").waitFor({ state: "attached" });

    await walk("model", "Shift+Tab");
    await page.keyboard.press("ArrowDown");
    assert.equal(await page.locator("#model").inputValue(), "gpt-4.1-nano");
    await walk("message");
    await page.keyboard.type("To the other one");
    await page.keyboard.press("Enter");
    await ended(page);
    await page.waitForFunction(() => document.querySelectorAll(".theirs:not(.busy)").length === 2);

    await walk("Delete “By hand”", "Shift+Tab");
    await page.keyboard.press("Enter");
    await walk("Delete");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#list li").length === 0);
    assert.equal(await focused(), "message");
  },

  async phone() {
    const page = await playground(PHONE);
    const wide = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.ok(!(await wide()));
    await ask(page, "From a phone");
    await ended(page);
    assert.ok(!(await wide()), "an answer with code does not widen the page");
    const small = await page.evaluate(() => [...document.querySelectorAll("button, select")]
      .filter((one) => one.checkVisibility({ visibilityProperty: true }) && one.getBoundingClientRect().height < 40)
      .map((one) => one.textContent));
    assert.deepEqual(small, [], "fingers need room");
    await page.locator("#open-side").tap();
    await page.locator("#new").waitFor();
    assert.ok(await page.evaluate(() => document.getElementById("main").inert), "what is behind cannot be reached");
    await page.locator("#new").tap();
    await page.waitForFunction(() => !document.getElementById("main").inert);
    await page.locator(".welcome").waitFor();
    await page.locator("#toggle-settings").tap();
    await page.locator("#key").fill("sk-secret");
    assert.ok(!(await wide()));
    await page.locator("#close-settings").tap();
    const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
    assert.ok(!kept.includes("sk-secret"), "a key is kept nowhere");
    await page.reload();
    assert.equal(await page.locator("#key").inputValue(), "");
  },

  async accessible() {
    const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    for (const [size, colorScheme] of [[DESK, "light"], [DESK, "dark"], [PHONE, "light"], [PHONE, "dark"]]) {
      // The page's policy would keep the rules out, which are no part of it.
      const page = await playground({ ...size, colorScheme, bypassCSP: true }, ["status of 503"]);
      await page.evaluate(axe);
      const clean = async (state) => {
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        const found = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`);
        assert.deepEqual(found, [], `${state}, ${colorScheme}, ${size.viewport.width} wide`);
        await picture(page, `playground ${state} ${colorScheme} ${size.viewport.width}`);
      };
      await clean("empty");
      await ask(page, "Say something");
      await ended(page);
      await clean("an answer");
      await ask(page, "Fail");
      await holds(last(page), "The model cannot be reached");
      await clean("an error");
      await page.locator("#toggle-settings").click();
      await clean("settings");
      await page.locator("#close-settings").click();
      await page.locator("#open-code").click();
      await clean("code");
      await page.context().close();
    }
  },

  /** The ids that the document makes up stand for those of the latest answers. */
  async docs_ids() {
    const page = await tab("/docs", DESK, ["status of 404"]);
    const fetched = (answer) => ["fetch", "xhr"].includes(answer.request().resourceType());
    /** Opens an operation, presses Execute as soon as what it sends is there, and says what that was. */
    const send = async (operation, status, example = null) => {
      const block = page.locator(`#operations-${operation}`);
      const [body, id] = [block.locator(".body-param__text"), block.locator(".parameters input[type=text]")];
      if (!(await block.locator(".execute").count())) await block.locator(".opblock-summary-control").click();
      // Execute is shown before what it sends.
      await body.or(id).first().waitFor();
      if (await id.count()) {
        await page.waitForFunction((input) => input.value !== "", await id.first().elementHandle());
      } else {
        await holds(body, "Hello, how are you?");
        if (example) {
          await block.locator(".examples-select-element").first().selectOption(example);
          await holds(body, "And yesterday?");
        }
      }
      const answer = page.waitForResponse(fetched);
      await block.locator(".execute").click();
      const request = (await answer).request();
      await block.locator(".execute:enabled").waitFor();
      await holds(block.locator(".live-responses-table tbody .response-col_status").first(), status);
      return `${new URL(request.url()).pathname} ${request.postData()}`;
    };
    await page.locator(".opblock").first().waitFor();
    assert.match(await send("openai-get_response", "404"), /^\/v1\/responses\/resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69 /);
    await send("chat-chat", "200");
    assert.doesNotMatch(await send("chat-chat", "200", "follow_up"), /9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10/);
    assert.match(await send("chat-get_conversation", "200"), /^\/api\/v1\/conversations\/[\da-f-]{36} /);
    await send("openai-create_response", "200");
    await send("openai-create_response", "200", "follow_up");
    await send("openai-get_response", "200");
    await send("openai-delete_response", "200");
    await send("openai-get_response", "404");
  },

  async docs() {
    const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    for (const [size, colorScheme] of [[DESK, "light"], [DESK, "dark"], [PHONE, "light"]]) {
      const page = await tab("/redoc", { ...size, colorScheme, bypassCSP: true });
      await page.evaluate(axe);
      const clean = async (state) => {
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        const found = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`);
        assert.deepEqual(found, [], `${state}, ${colorScheme}, ${size.viewport.width} wide`);
        await picture(page, `docs ${state} ${colorScheme} ${size.viewport.width}`);
      };
      await page.locator(".opblock").first().waitFor();
      assert.equal(new URL(page.url()).pathname, "/docs/");
      await clean("closed");
      await page.locator("#operations-chat-chat .opblock-summary-control").click();
      await filled(page);
      const ask = page.locator("#operations-chat-chat .execute");
      const awake = ask.evaluate((button) => new Promise((resolve) => {
        const changed = () => button.disabled || resolve(getComputedStyle(button).opacity);
        new MutationObserver(changed).observe(button, { attributeFilter: ["disabled"] });
      }));
      await ask.click();
      assert.equal(await awake, "1", "it is legible as soon as it can be pressed again");
      await holds(page.locator("#operations-chat-chat .live-responses-table"), "word0");
      assert.equal(await page.locator("#operations-chat-chat .live-responses-table tbody .response-col_status").first().innerText(), "200");
      await page.locator("#operations-chat-chat .live-responses-table tbody").scrollIntoViewIfNeeded();
      await clean("an answer");
      assert.ok(!(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)), "it fits");
      assert.equal(await page.locator("#playground").getAttribute("href"), "../playground");
      assert.ok(await page.locator("#playground").isVisible());
      await page.context().close();
    }
    // As it is sent, policy and all, and by keyboard alone.
    const page = await tab("/docs", DESK, ["status of 503"]);
    await page.locator(".opblock").first().waitFor();
    assert.equal(await page.title(), "API docs");
    const walk = async (selector) => {
      for (let step = 0; step < 40; step++) {
        if (await page.evaluate((one) => document.activeElement.matches(one), selector)) return;
        await page.keyboard.press("Tab");
      }
      assert.fail(`${selector} is not reached with Tab`);
    };
    await walk("#operations-chat-chat .opblock-summary-control");
    await page.keyboard.press("Enter");
    await filled(page);
    await walk("#operations-chat-chat .execute");
    await page.keyboard.press("Enter");
    const told = page.locator("#operations-chat-chat .live-responses-table");
    await holds(told, "word0");
    await holds(told.locator("tbody .response-col_status"), "200");
    await page.locator("#operations-chat-chat .execute:focus").waitFor();
    await page.keyboard.press("Enter");
    await holds(told, "backend_unavailable");
    await holds(told.locator("tbody .response-col_status"), "503");
  },
};

let failed = null;
try {
  await cases[name]();
} catch (error) {
  failed = error;
}
await browser.close();
if (failed) console.error(failed.stack);
if (wrong.length) console.error(wrong.join("\n"));
process.exit(failed || wrong.length ? 1 : 0);
