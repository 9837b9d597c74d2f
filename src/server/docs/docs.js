// The reference of the API: Swagger UI with what it lacks. In: the document beside this page. Out: the page, light or dark
// as the system is, asking the address that it was loaded from, also behind a path prefix, and with names for those who
// cannot see what a field stands beside.

const root = new URL("..", document.baseURI);
const reference = document.getElementById("reference");

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

/** What Swagger UI leaves without a name, and its name. */
const NAMES = [
  [".body-param__text", "Request body"],
  [".content-type", "Media type"],
  [".examples-select-element", "Example"],
  [".copy-to-clipboard button", "Copy"],
  [".parameters select", "Value"],
  [".parameters input", "Value"],
  ["select", "Choice"],
  ["textarea", "Text"],
];

function complete() {
  for (const [selector, name] of NAMES) {
    for (const one of reference.querySelectorAll(`${selector}:not([aria-label], [aria-labelledby])`)) one.ariaLabel = name;
  }
  // A link within a button: who presses it presses the button.
  for (const link of reference.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
  // What scrolls is reached by keyboard.
  for (const code of reference.querySelectorAll("pre:not([tabindex])")) code.tabIndex = 0;
  for (const [selector, level] of [[".opblock-tag", 2], [".models h4", 2], [".opblock-section h4", 3], [".responses-inner > div > h4", 3], ["h5", 4]]) {
    for (const heading of reference.querySelectorAll(`${selector}:not([aria-level])`)) heading.ariaLevel = level;
  }
}

/** Execute, which cannot be pressed while it waits and so loses the focus, gets it back; unless that has gone elsewhere. */
function refocus(changes) {
  for (const { target } of changes) {
    if (target.matches(".execute:enabled") && document.activeElement === document.body) target.focus({ preventScroll: true });
  }
}

/** Where the document makes up an id, and how an answer has one. Here it stands for the latest that came. */
const IDS = [
  ["/api/v1/conversations/{id}", /"conversation_id":"([\da-f-]{36})"/],
  ["/v1/responses/{id}", /"id":"(resp_[\da-f]{32})"/],
];

/** Swagger UI's way to see each request before it leaves, and each answer. */
function idsOf(spec) {
  const ids = IDS.map(([path, pattern]) => ({ madeUp: spec.paths[path].get.parameters[0].example, pattern, latest: null }));
  return {
    requestInterceptor(request) {
      for (const { madeUp, latest } of ids.filter((id) => id.latest)) {
        request.url = request.url.replaceAll(madeUp, latest);
        if (typeof request.body === "string") request.body = request.body.replaceAll(madeUp, latest);
      }
      return request;
    },
    responseInterceptor(response) {
      for (const id of ids) id.latest = id.pattern.exec(response.text ?? "")?.[1] ?? id.latest;
      return response;
    },
  };
}

async function read(path) {
  const answer = await fetch(new URL(path, root));
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

try {
  const [spec, about] = await Promise.all([read("openapi.json"), read(".").catch(() => ({}))]);
  spec.info.description += "\n\nThe ids in the examples are made up. On this page they stand for those of your latest answers: ask first, then go on.";
  spec.servers = [{ url: root.href.replace(/\/$/, "") }];
  document.getElementById("playground").hidden = !about.playground;
  globalThis.SwaggerUIBundle({
    spec,
    domNode: reference,
    deepLinking: true,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    ...idsOf(spec),
    // Without this it would show every document to a validator on the internet.
    validatorUrl: "none",
    onComplete: complete,
  });
  new MutationObserver(complete).observe(reference, { childList: true, subtree: true });
  new MutationObserver(refocus).observe(reference, { attributeFilter: ["disabled"], subtree: true });
} catch (error) {
  const text = document.createElement("p");
  text.className = "waiting";
  text.setAttribute("role", "alert");
  text.textContent = `The document cannot be read (${error.message}). Reload the page to try again.`;
  reference.replaceChildren(text);
}
