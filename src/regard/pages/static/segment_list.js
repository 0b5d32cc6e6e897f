import { element } from "./dom.js";
import { factsOf } from "./segment_field.js";
import { titleOf, whole } from "./segment_state.js";

const SORTS = [["area", "largest first"], ["number", "by number"], ["iou", "surest first"], ["name", "by name"]];

/** All masks of the image, a row each: seen or not, chosen or not. Rows are made once and moved. */
export class List {
  constructor(state, root) {
    this.state = state;
    this.rows = new Map(); // number -> {node, toggle, pick, object, ...}
    this.count = element("h2", { class: "list-title", id: "list-title" });
    this.filter = element("input", {
      type: "search", class: "text-field", placeholder: "Find a name or number", "aria-label": "Find a name or number",
      oninput: (event) => state.set({ filter: event.target.value }),
    });
    this.sort = element("select", { class: "select-field", "aria-label": "Order", onchange: (event) => state.set({ sort: event.target.value }) },
      SORTS.map(([value, text]) => element("option", { value }, text)));
    this.all = element("button", { type: "button", class: "plain-button", onclick: () => this.showAll() });
    this.grid = element("div", { class: "rows", role: "grid", "aria-labelledby": "list-title", "aria-multiselectable": "true", "data-arrows": true });
    this.empty = element("p", { class: "quiet empty" });
    root.append(
      element("div", { class: "list-head" }, this.count, element("div", { class: "list-tools" }, this.filter, this.sort, this.all)),
      this.grid, this.empty,
    );
    this.grid.addEventListener("keydown", (event) => this.move(event));
  }

  showAll() {
    const { state } = this;
    const visible = state.objects.some((one) => !one.visible);
    state.edit(() => ({ visible }), new Set(state.objects.map((one) => one.number)));
  }

  row(object) {
    const { state } = this;
    const { number } = object;
    const toggle = element("button", { type: "button", class: "swatch", tabindex: "-1", onclick: () => state.show(new Set([number])) });
    const name = element("span", { class: "row-name" });
    const facts = element("span", { class: "row-facts number" });
    const pick = element("button", {
      type: "button", class: "row-pick", tabindex: "-1",
      onclick: (event) => state.select(number, event.shiftKey || event.ctrlKey || event.metaKey),
      onfocus: () => state.set({ hovered: number, place: null }),
      onblur: () => state.set({ hovered: null }),
    }, name, facts);
    const node = element("div", { class: "row", role: "row" }, element("span", { role: "gridcell" }, toggle), element("span", { role: "gridcell", class: "row-cell" }, pick));
    node.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && state.set({ hovered: number, place: null }));
    node.addEventListener("pointerleave", () => state.set({ hovered: null }));
    return { node, toggle, pick, name, facts };
  }

  /** Arrow keys go from row to row and from cell to cell. */
  move(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const at = this.shown.findIndex((one) => this.rows.get(one.number).node.contains(document.activeElement));
    if (at < 0) return;
    const { toggle, pick } = this.rows.get(this.shown[at].number);
    if (event.key === "ArrowLeft") toggle.focus();
    else if (event.key === "ArrowRight") pick.focus();
    else if (by) {
      const next = this.rows.get(this.shown[Math.max(0, Math.min(this.shown.length - 1, at + by))].number);
      (document.activeElement === toggle ? next.toggle : next.pick).focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The next (1) or the last (-1) mask of the list, chosen. */
  step(by) {
    const { state, shown } = this;
    if (!shown.length) return;
    const at = shown.findIndex((one) => state.selected.has(one.number));
    const next = at < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.max(0, Math.min(shown.length - 1, at + by));
    state.set({ selected: new Set([shown[next].number]), touched: true });
  }

  update() {
    const { state } = this;
    const { objects } = state;
    const named = objects.filter((one) => one.name).length;
    this.count.textContent = `${whole(objects.length)} ${objects.length === 1 ? "mask" : "masks"}${named ? `, ${whole(named)} named` : ""}`;
    this.all.textContent = objects.some((one) => !one.visible) ? "Show all" : "Hide all";
    const key = [state.filter, state.sort].join("\n");
    if (this.drawnOf !== objects || this.key !== key) {
      this.shown = state.listed();
      this.arrange();
      [this.drawnOf, this.key] = [objects, key];
    }
    this.empty.hidden = this.shown.length > 0;
    this.empty.textContent = objects.length ? "No mask has that name or number." : "There are no masks in this image.";
    this.paint();
  }

  /** Makes, fills and orders the rows. */
  arrange() {
    const { state, rows } = this;
    if (this.image !== state.image) rows.clear();
    this.image = state.image;
    const nodes = this.shown.map((one) => {
      if (!rows.has(one.number)) rows.set(one.number, this.row(one));
      const row = rows.get(one.number);
      if (row.object !== one) {
        row.name.textContent = titleOf(one);
        row.name.classList.toggle("unnamed", !one.name);
        row.facts.textContent = `${one.name ? `mask ${one.number} · ` : ""}${factsOf(one)}`;
        row.toggle.setAttribute("aria-pressed", String(one.visible));
        row.toggle.setAttribute("aria-label", `Show ${titleOf(one)}`);
        row.node.classList.toggle("hidden-mask", !one.visible);
        row.object = one;
      }
      return row.node;
    });
    const same = nodes.length === this.grid.childElementCount && nodes.every((node, at) => node === this.grid.children[at]);
    if (same) return;
    const focused = document.activeElement;
    this.grid.replaceChildren(...nodes);
    if (this.grid.contains(focused)) focused.focus();
  }

  /** What changes without the objects: colours, what is chosen and pointed at, which row the tab key comes to. */
  paint() {
    const { state } = this;
    const first = this.shown.find((one) => state.selected.has(one.number)) ?? this.shown[0];
    for (const one of this.shown) {
      const row = this.rows.get(one.number);
      const chosen = state.selected.has(one.number);
      const look = [state.colour(one), chosen, one.number === state.hovered, one === first].join();
      if (row.look === look) continue;
      row.look = look;
      row.node.setAttribute("aria-selected", String(chosen));
      row.node.classList.toggle("pointed", one.number === state.hovered);
      row.toggle.style.setProperty("--colour", `rgb(${state.colour(one).join(" ")})`);
      row.pick.tabIndex = row.toggle.tabIndex = one === first ? 0 : -1;
    }
    const only = state.selected.size === 1 ? this.rows.get([...state.selected][0])?.node : null;
    if (only && only !== this.scrolled && only.isConnected) {
      const [grid, row] = [this.grid.getBoundingClientRect(), only.getBoundingClientRect()];
      if (row.top < grid.top) this.grid.scrollTop += row.top - grid.top;
      else if (row.bottom > grid.bottom) this.grid.scrollTop += row.bottom - grid.bottom;
    }
    this.scrolled = only;
  }
}
