// What outlives a reload of this tab: which conversations there are, when they began, and the figures of their answers.
// Nothing that was asked or answered is among it: that is the service's, and read from there. A key is nowhere but in the
// page. In and out: plain objects.

const NAME = "chatservice.playground";
/** Conversations remembered at most. */
const MOST = 100;

/** `[{ id, begun, facts: [...] }]`, the latest first. */
export function recall() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(NAME) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => typeof one?.id === "string") : [];
  } catch {
    return [];
  }
}

/** Keeps those that the service knows. */
export function keep(conversations) {
  const kept = conversations.filter((one) => one.id).slice(0, MOST);
  try {
    sessionStorage.setItem(NAME, JSON.stringify(kept.map(({ id, begun, facts }) => ({ id, begun, facts }))));
  } catch {
    // Full or forbidden: the list then ends with the page.
  }
}
