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

  const tile = ([photo, label, said, sure]) => {
    const item = make("li");
    const thumb = store.thumbs[photo];
    if (thumb) {
      const picture = make("img");
      picture.src = `data:image/webp;base64,${thumb}`;
      picture.alt = "";
      picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth < 48), { once: true });
      item.append(picture);
    } else {
      item.append(make("div", "blank"));
    }
    item.append(make("span", "label name", nameOf(label)));
    const answer = make("span", label === said ? "said same" : "said");
    answer.append(make("span", "name", label === said ? "right" : nameOf(said)));
    if (sure >= 0) answer.append(make("span", "sure", ` ${(sure / 10).toFixed(1)}%`));
    item.append(answer);
    item.append(make("span", "file name", store.photos[photo].split("/").pop()));
    item.title = store.photos[photo];
    return item;
  };

  const fill = (list, items, shown = PAGE) => {
    list.replaceChildren(...items.slice(0, shown).map(tile));
    list.parentElement.querySelector(":scope > .more")?.remove();
    if (items.length <= shown) return;
    const more = make("button", "more", `Show ${Math.min(items.length - shown, 60)} more`);
    more.type = "button";
    more.addEventListener("click", () => fill(list, items, shown + 60));
    list.after(more);
  };

  for (const list of document.querySelectorAll("[data-gallery]")) fill(list, store.galleries[list.dataset.gallery] ?? []);

  const dialog = document.querySelector("dialog");
  const openCell = ({ model, row, column, photos }) => {
    const { said, sure } = store.models[model];
    const items = [];
    for (let at = 0; at < said.length; at += 1) {
      if (store.labels[at] === +row && said[at] === +column) items.push([at, +row, +column, sure[at]]);
    }
    items.sort((a, b) => b[3] - a[3]);
    const title = document.getElementById("dialog-title");
    const verb = row === column ? "named correctly" : `taken for ${nameOf(+column)}`;
    const total = items.length < +photos ? `${items.length} of ${photos}` : photos;
    title.replaceChildren(make("span", "name", `${nameOf(+row)} ${verb}`), make("span", "count", ` ${total} ${+photos === 1 ? "photo" : "photos"}`));
    fill(dialog.querySelector(".gallery"), items, 60);
    dialog.showModal();
  };
  document.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-row]");
    if (cell) openCell(cell.dataset);
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
