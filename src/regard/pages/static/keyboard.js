import { element } from "./dom.js";

const FIELDS = ["INPUT", "SELECT", "TEXTAREA"];

/**
 * Keys for the whole page. bindings: {keys: ["[", "]"], what: "layer", does: (key, event) => {}}; a key that a field or
 * a control needs itself stays with it. Returns a function that opens the list of them.
 */
export function listenToKeys(bindings, note) {
  const dialog = element(
    "dialog",
    { "aria-label": "Keys" },
    element("h2", {}, "Keys"),
    element(
      "dl",
      { class: "keys" },
      bindings.filter((one) => one.what).map((one) => [
        element("dt", {}, ...one.keys.flatMap((key) => [element("kbd", {}, nameOf(key)), " "])),
        element("dd", {}, one.what),
      ]),
    ),
    note ? element("p", { class: "quiet" }, note) : null,
    element("p", {}, element("button", { type: "button", class: "plain-button", onclick: () => dialog.close() }, "Close")),
  );
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const found = bindings.find((one) => one.keys.includes(event.key));
    if (!found || ownedByControl(event)) return;
    event.preventDefault();
    found.does(event.key, event);
  });
  return () => dialog.showModal();
}

function ownedByControl(event) {
  const at = event.target;
  if (at.type === "range") return event.key.startsWith("Arrow");
  if (FIELDS.includes(at.tagName)) return true;
  if (event.key === "Enter" || event.key === " ") return at.tagName === "BUTTON" || at.tagName === "SUMMARY";
  return event.key.startsWith("Arrow") && Boolean(at.closest("[data-arrows]"));
}

function nameOf(key) {
  return { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space", Escape: "Esc" }[key] ?? key;
}
