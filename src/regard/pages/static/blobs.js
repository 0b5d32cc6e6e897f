/** Arrays that lie gzipped in script elements, unpacked when they are first asked for (regard.pages.data). */
const TYPES = { uint8: Uint8Array, int8: Int8Array, int32: Int32Array, float32: Float32Array };

export class Blobs {
  /** index: blob -> array -> [kind, shape, type, offset, (length, offset of the scale)]. */
  constructor(index, onLoad) {
    this.index = index;
    this.onLoad = onLoad;
    this.loaded = new Map();
    this.waiting = new Map();
  }

  has(name) {
    return name in this.index;
  }

  /** The arrays of a blob, or null while it is being unpacked; then `onLoad` is called when it is there. */
  peek(name) {
    if (!this.loaded.has(name)) this.load(name).then(this.onLoad);
    return this.loaded.get(name) ?? null;
  }

  load(name) {
    if (!this.waiting.has(name)) this.waiting.set(name, this.unpack(name));
    return this.waiting.get(name);
  }

  async unpack(name) {
    const node = document.getElementById(`blob-${name}`);
    const stream = new Blob([bytesOf(node.textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
    const buffer = await new Response(stream).arrayBuffer();
    node.remove();
    const arrays = {};
    for (const [key, [kind, shape, type, offset, length, scaleOffset]] of Object.entries(this.index[name])) {
      const count = shape.reduce((product, side) => product * side, 1);
      arrays[key] = { kind, shape, values: new TYPES[type](buffer, offset, count) };
      if (length !== undefined) arrays[key].scale = new Float32Array(buffer, scaleOffset, length);
    }
    this.loaded.set(name, arrays);
    return arrays;
  }
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** The numbers of a whole array, `{kind, values, scale}` with one scale per leading index. */
export function decoded({ kind, values, scale }) {
  if (!scale) return values;
  const numbers = new Float32Array(values.length);
  const inner = values.length / scale.length;
  for (let at = 0; at < values.length; at += 1) {
    const value = values[at];
    numbers[at] = scale[Math.floor(at / inner)] * (kind === "rows" ? value * value : value);
  }
  return numbers;
}
