// Reading what encoding.py wrote: packets, arrays in them, and numbers in words.

/** The elements of JSON that the page carries. */
function embedded(id) {
  return document.getElementById(id).textContent;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** The header of a packet and the numbers behind it. */
async function opened(packet) {
  const stream = new Blob([packet]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(content.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(content.subarray(4, 4 + length)));
  return { header, numbers: content.subarray(4 + length) };
}

/** What an array's least and greatest number stand for at one index of its first axis. */
function ends(array, index) {
  const at = array.low.length > 1 ? index : 0;
  return { low: array.low[at], high: array.high[at] };
}

/** The values at one index of an array's first axis, their shape, ends, and where they are from. */
function slice(numbers, array, index) {
  const shape = array.shape.slice(1);
  const count = shape.reduce((product, side) => product * side, 1);
  const start = array.at + index * count * array.bytes;
  const last = array.bytes === 1 ? 254 : 65534;
  const { low, high } = ends(array, index);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const place = start + i * array.bytes;
    const code = array.bytes === 1 ? numbers[place] : numbers[place] + 256 * numbers[place + 1];
    values[i] = code > last ? NaN : low + (code / last) * (high - low);
  }
  return { values, shape, low, high, source: array, index };
}

/** Index of the greatest value; what is none is not greater than any. */
function greatest(values) {
  const isGreater = (value, best) => value > best || (Number.isNaN(best) && !Number.isNaN(value));
  return values.reduce((best, value, i) => (isGreater(value, values[best]) ? i : best), 0);
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** Which of `count` equal parts of [0, 1] a fraction lies in. */
function part(fraction, count) {
  return clamp(Math.floor(fraction * count), 0, count - 1);
}

/** A number in three digits. */
function short(value) {
  if (!Number.isFinite(value)) return "no number";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3));
  return text.replace("-", "−");
}

/** A number in as many decimals as tell a thousandth of a scale. */
function within(value, low, high) {
  const range = high - low;
  if (!(range > 0) || !Number.isFinite(value)) return short(value);
  const unit = 10 ** (Math.floor(Math.log10(range)) - 2);
  return short(Math.round(value / unit) * unit);
}

/** A share in per cent, with more digits where it is small. */
function percent(share) {
  const value = 100 * share;
  if (value === 0) return "0\u00a0%";
  if (value < 0.01) return "under 0.01\u00a0%";
  return `${value >= 9.95 ? value.toFixed(0) : +value.toPrecision(2)}\u00a0%`;
}

/** "row 3, column 5 of 14 × 14", counted from 1. */
function placeInWords([row, column], [rows, columns]) {
  return `row ${row + 1}, column ${column + 1} of ${rows}\u00a0×\u00a0${columns}`;
}

/** "block 3 of 6, focal modulation"; outside of stages the path instead of a number. */
function blockInWords(block, blocks) {
  if (block.stage < 0) return `${block.path}, ${block.kind}`;
  const count = 1 + Math.max(...blocks.map((other) => other.block));
  const name = block.block < 0 ? "downsampling" : `block ${block.block + 1} of ${count}`;
  return block.kind === name ? name : `${name}, ${block.kind}`;
}
