"use strict";
(() => {
  const store = JSON.parse(document.getElementById("store").textContent);
  const PAGE = 16;

  // Every name reaches the page through textContent: nothing in it is ever parsed as markup.
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const nameOf = (index) => store.classes[index] ?? "–";

  const SVG = document.querySelector("svg")?.namespaceURI;
  const box = (kind, [x0, y0, x1, y1], width, height) => {
    const rect = document.createElementNS(SVG, "rect");
    const place = { x: x0 * width, y: y0 * height, width: Math.max(0, x1 - x0) * width, height: Math.max(0, y1 - y0) * height };
    for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value.toFixed(1));
    rect.setAttribute("class", `box ${kind}`);
    return rect;
  };
  // Drawn in the picture's own pixels and fitted like the picture, so that both coincide at any size.
  const boxes = (picture, photo, model) => {
    const { naturalWidth: width, naturalHeight: height } = picture;
    const drawing = document.createElementNS(SVG, "svg");
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("aria-hidden", "true");
    for (const [kind, corners] of [["true", store.labels[photo]], ["said", store.models[model].numbers[photo]]]) {
      if (corners && corners.every((value) => value !== null)) {
        drawing.append(box(`under ${kind}`, corners, width, height), box(kind, corners, width, height));
      }
    }
    picture.parentElement.append(drawing);
  };

  const tile = (model) => ([photo, label, said, sure, note]) => {
    const item = make("li");
    const thumb = store.thumbs[photo];
    const frame = make("div", thumb ? "frame" : "blank");
    item.append(frame);
    if (thumb) {
      const picture = make("img");
      picture.src = `data:image/webp;base64,${thumb}`;
      picture.alt = "";
      picture.addEventListener("load", () => {
        picture.classList.toggle("tiny", picture.naturalWidth < 48);
        if (store.boxes && model !== null) boxes(picture, photo, model);
      }, { once: true });
      frame.append(picture);
    }
    if (label) item.append(make("span", "label name", label));
    if (said) {
      const answer = make("span", label === said ? "said same" : "said");
      answer.append(make("span", "name", label === said ? "right" : said));
      if (sure >= 0) answer.append(make("span", "sure", `${(sure / 10).toFixed(1)}%`));
      item.append(answer);
    }
    if (note) item.append(make("span", "hint name", note));
    item.append(make("span", "file name", store.photos[photo].split("/").pop()));
    item.title = store.photos[photo];
    return item;
  };

  const fill = (list, { items, model }, shown = PAGE) => {
    list.replaceChildren(...items.slice(0, shown).map(tile(model)));
    list.parentElement.querySelector(":scope > .more")?.remove();
    if (items.length <= shown) return;
    const more = make("button", "more", `Show ${Math.min(items.length - shown, 60)} more`);
    more.type = "button";
    more.addEventListener("click", () => fill(list, { items, model }, shown + 60));
    list.after(more);
  };

  for (const list of document.querySelectorAll("[data-gallery]")) {
    fill(list, store.galleries[list.dataset.gallery] ?? { items: [], model: null });
  }

  const dialog = document.querySelector("dialog");
  const open = (name, count, content) => {
    document.getElementById("dialog-title").replaceChildren(make("span", "name", name), make("span", "count", ` ${count}`));
    fill(dialog.querySelector(".gallery"), content, 60);
    dialog.showModal();
  };
  const photosOf = (count) => `${count} ${+count === 1 ? "photo" : "photos"}`;

  // One class per photo: the photos of a label (row) that the model called something (column).
  const named = (model, row, column) => {
    const { said, sure } = store.models[model];
    const items = [];
    for (let at = 0; at < said.length; at += 1) {
      if (store.labels[at] === row && said[at] === column) items.push([at, nameOf(row), nameOf(column), sure[at], ""]);
    }
    items.sort((a, b) => b[3] - a[3]);
    return [`${nameOf(row)} ${row === column ? "named correctly" : `taken for ${nameOf(column)}`}`, items];
  };
  // Several labels: the photos where one label was missed (row) and another added (column); the last of each is "none".
  const wrongly = (model, row, column) => {
    const { missed, added } = store.models[model];
    const none = store.classes.length;
    const found = row === column;
    const has = (pairs, label) => (label === none ? pairs.length === 0 : pairs.some(([one]) => one === label));
    const words = (pairs, verb) => pairs.map(([label, sure]) => `${verb} ${nameOf(label)} ${(sure / 10).toFixed(1)}%`);
    const items = [];
    for (let at = 0; at < missed.length; at += 1) {
      const fits = found ? store.labels[at].includes(row) && !has(missed[at], row) : has(missed[at], row) && has(added[at], column);
      if (!fits) continue;
      const note = [...words(missed[at], "missed"), ...words(added[at], "added")].join(", ");
      items.push([at, store.labels[at].map(nameOf).join(", ") || "no label", "", -1, note]);
    }
    const parts = [row === none ? "" : `${nameOf(row)} missed`, column === none ? "" : `${nameOf(column)} added`];
    return [found ? `${nameOf(row)} found` : parts.filter(Boolean).join(", "), items];
  };
  const openCell = ({ model, row, column, photos }) => {
    const [name, items] = (store.problem === "multi_label" ? wrongly : named)(+model, +row, +column);
    open(name, items.length < +photos ? `${items.length} of ${photosOf(photos)}` : photosOf(photos), { items, model: null });
  };

  // Numbers: the photos nearest to a point of predicted against true.
  const openNear = (field, event) => {
    const { field: model, at, low, high } = field.dataset;
    const area = field.getBoundingClientRect();
    const [least, span] = [+low, +high - +low];
    const true_ = least + ((event.clientX - area.left) / area.width) * span;
    const said = least + ((area.bottom - event.clientY) / area.height) * span;
    const { numbers } = store.models[+model];
    const items = [];
    for (let photo = 0; photo < numbers.length; photo += 1) {
      const [x, y] = [store.labels[photo]?.[+at] ?? null, numbers[photo]?.[+at] ?? null];
      if (x !== null && y !== null) items.push([photo, `${x}`, `${y}`, -1, "", Math.hypot(x - true_, y - said)]);
    }
    items.sort((a, b) => a[5] - b[5]);
    const near = items.slice(0, 12);
    open(nameOf(+at), `${photosOf(near.length)} nearest to true ${true_.toPrecision(3)}, predicted ${said.toPrecision(3)}`, { items: near, model: +model });
  };

  document.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-row]");
    const field = event.target.closest("[data-field]");
    if (cell) openCell(cell.dataset);
    else if (field) openNear(field, event);
    else if (event.target === dialog || event.target.closest(".close")) dialog.close();
  });

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
