/** Elements with attributes and children, without strings of HTML: what is given as text stays text. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== ""));
  return node;
}

/** A row of buttons of which one is pressed; `show(value)` says which. */
export function choice(label, options, pick) {
  const buttons = options.map(([value, text, title]) =>
    element("button", { type: "button", title, "data-value": value, onclick: () => pick(value) }, text),
  );
  const node = element("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  const show = (value) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === String(value)));
  };
  return { node, show };
}

/** A formula from text in which `x_i`, `x^2`, `{...}` groups mark what hangs below and above; letters are variables. */
export function formula(text) {
  const node = element("p", { class: "formula" });
  const part = /([_^])(\{[^}]*\}|.)|([A-Za-zα-ωΑ-Ω]+)|([^A-Za-zα-ωΑ-Ω_^]+)/gu;
  for (const [, mark, inside, word, rest] of text.matchAll(part)) {
    if (mark) node.append(element(mark === "_" ? "sub" : "sup", {}, inside.replace(/[{}]/g, "")));
    else if (word) node.append(word.length > 1 ? element("span", { class: "upright" }, word) : element("var", {}, word));
    else node.append(rest);
  }
  return node;
}
