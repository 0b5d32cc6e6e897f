const UNNAMED = "object"; // the category of masks without a name, as in `--format coco`
const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const FEW = 255; // numbers that a palette has

/** COCO's JSON of some images: [{name, height, width, objects}]. */
export function cocoOf(images, command) {
  const names = new Set(images.flatMap(({ objects }) => objects.map((one) => one.name || UNNAMED)));
  const categories = [...names].sort((a, b) => Number(a === UNNAMED) - Number(b === UNNAMED) || (a < b ? -1 : 1));
  const numbers = new Map(categories.map((name, at) => [name, at + 1]));
  const annotations = images.flatMap(({ objects }, image) => objects.map((one) => annotationOf(one, image + 1, numbers)));
  annotations.forEach((one, at) => { one.id = at + 1; });
  return {
    info: { description: "masks by regard segment, named in its page", command },
    images: images.map(({ name, height, width }, at) => ({ id: at + 1, file_name: name, height, width })),
    annotations,
    categories: categories.map((name, at) => ({ id: at + 1, name, supercategory: "" })),
  };
}

function annotationOf(one, image, numbers) {
  const { runs } = one;
  const { x0, y0, x1, y1 } = runs.box;
  const found = {
    id: 0, image_id: image, category_id: numbers.get(one.name || UNNAMED), iscrowd: 0,
    segmentation: { size: [runs.height, runs.width], counts: runs.text }, area: runs.area, bbox: [x0, y0, x1 - x0, y1 - y0],
  };
  if (!Number.isNaN(one.iou)) found.predicted_iou = rounded(one.iou);
  if (!Number.isNaN(one.stability)) found.stability_score = rounded(one.stability);
  if (one.points.length) found.point_coords = one.points;
  if (!Number.isNaN(one.score)) found.category_score = rounded(one.score);
  return { ...found, number: one.number };
}

const rounded = (value) => Number(value.toFixed(6));

/**
 * A PNG whose pixels are the numbers of masks, 0 where there is none, the smaller of two on top: 8 bits with a palette
 * (colourOf: object -> [r, g, b]) up to 255, 16 bits beyond. Resolves to a Blob.
 */
export async function labelsOf({ height, width, objects }, colourOf) {
  const most = objects.reduce((largest, one) => Math.max(largest, one.number), 0);
  const deep = most > FEW;
  const labels = new Uint16Array(height * width); // column after column
  const all = { x: 0, y: 0, step: 1, width, height };
  for (const one of [...objects].sort((a, b) => b.runs.area - a.runs.area || a.number - b.number)) {
    one.runs.each(all, (column, first, last) => labels.fill(one.number, column * height + first, column * height + last));
  }
  const bytes = deep ? 2 : 1;
  const rows = new Uint8Array(height * (width * bytes + 1)); // each begins with 0: no filter
  for (let row = 0, at = 0; row < height; row += 1) {
    at += 1;
    for (let column = 0; column < width; column += 1) {
      const label = labels[column * height + row];
      if (deep) rows[at++] = label >> 8;
      rows[at++] = label & 255;
    }
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8 * bytes);
  header.setUint8(9, deep ? 0 : 3); // grey, or a palette
  const palette = new Uint8Array(3 * (most + 1));
  if (!deep) for (const one of objects) palette.set(colourOf(one), 3 * one.number);
  const parts = [chunk("IHDR", new Uint8Array(header.buffer)), ...(deep ? [] : [chunk("PLTE", palette)]), chunk("IDAT", await deflated(rows)), chunk("IEND", new Uint8Array(0))];
  return new Blob([Uint8Array.from(SIGNATURE), ...parts], { type: "image/png" });
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(kind, content) {
  const whole = new Uint8Array(content.length + 12);
  const view = new DataView(whole.buffer);
  view.setUint32(0, content.length);
  whole.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  whole.set(content, 8);
  view.setUint32(content.length + 8, crc(whole.subarray(4, content.length + 8)));
  return whole;
}

let remainders = null;

/** Cyclic redundancy check of PNG (ISO 15948, annex D). */
function crc(bytes) {
  remainders ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    let value = byte;
    for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
    return value;
  });
  let value = 0xffffffff;
  for (const byte of bytes) value = remainders[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** Gives the reader a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** "photos/dog.jpg" -> "dog". */
export function stem(name) {
  return name.split(/[/\\]/).pop().replace(/\.[^.]*$/, "") || "image";
}
