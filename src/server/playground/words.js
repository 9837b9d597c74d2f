// Failures and figures in words. In: a Failure, numbers. Out: what people read.

/** `{ title, text, can }` of a failure; `can` is what helps: "key", "retry", "anew" or "" for nothing that this page does. */
export function explain(failure, hasKey) {
  const said = failure.message ? sentence(failure.message) : "";
  const is = (...codes) => codes.includes(failure.code);
  if (failure.kind === "unreachable") {
    return of("The service cannot be reached", "Check that it runs and that this page’s address still leads to it. Your message is kept: try again when it is back.", "retry");
  }
  if (failure.kind === "broken") {
    const what = is("cut") ? "The connection ended before the answer was whole." : said;
    return of("The answer broke off", `${what} What had come is shown, and is not part of the conversation.`, "retry");
  }
  switch (failure.status) {
    case 401:
      return hasKey
        ? of("The key was not accepted", "Check that it is complete and still valid, and put it in again.", "key")
        : of("This service asks for an API key", "Put yours into the settings; whoever runs this service hands them out.", "key");
    case 403:
      return of("This key may not do that", said, "key");
    case 404:
      return is("conversation_not_found")
        ? of("This conversation is gone", "It has expired or was deleted. Ask again to begin a new one.", "anew")
        : of("That does not exist here", said, "");
    case 413:
    case 422:
    case 400:
      return of("The service did not accept this message", said, "");
    case 429:
      return is("insufficient_quota")
        ? of("The budget is used up", said, "")
        : of("A limit is reached", said, "retry");
    case 502:
    case 504:
      return of("The model did not answer", said, "retry");
    case 503:
      return is("backend_unavailable", "backend_rate_limited", "backend_quota_exhausted", "backend_not_configured")
        ? of("The model cannot be reached", said, is("backend_quota_exhausted", "backend_not_configured") ? "" : "retry")
        : of("The service is busy", said, "retry");
    default:
      return of("Something went wrong", said || `The service answered with status ${failure.status}.`, "retry");
  }
}

/** The fine print of a failure, for whoever is asked for help. */
export function finePrint(failure) {
  const parts = [failure.status ? `status ${failure.status}` : "", failure.code, failure.requestId && `request ${failure.requestId}`];
  return parts.filter(Boolean).join(" · ");
}

/** US dollars: as many digits as say something. */
export function dollars(amount) {
  if (amount === 0) return "$0";
  const decimals = Math.min(9, Math.max(2, 1 - Math.floor(Math.log10(amount))));
  return `$${amount.toFixed(decimals)}`;
}

/** Milliseconds. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** What a conversation is called of which nothing but its beginning is known, in ms since 1970. */
export function beganAt(time) {
  const today = new Date(time).toDateString() === new Date().toDateString();
  const when = new Date(time).toLocaleString("en", today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
  return `Conversation of ${when}`;
}

/** A whole number with separators. */
export function count(number) {
  return number.toLocaleString("en");
}

function of(title, text, can) {
  return { title, text, can };
}

function sentence(text) {
  const whole = text.trim();
  return whole[0].toUpperCase() + whole.slice(1) + (/[.!?]$/.test(whole) ? "" : ".");
}
