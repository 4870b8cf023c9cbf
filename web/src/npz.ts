// NumPy's .npz files (a zip of .npy arrays), with limits on what they may unpack to. No pickles: an object is refused.
import type { Tensor } from "./protocol";

export type Arrays = Record<string, Tensor & { text?: string }>;
const MOST_BYTES = 400_000_000;
const END = 0x06054b50, CENTRAL = 0x02014b50;

/** @throws Error where the file is damaged, holds something else than arrays, or unpacks to too much. */
export async function readNpz(bytes: Uint8Array): Promise<Arrays> {
  const arrays: Arrays = {};
  let total = 0;
  for (const member of members(bytes)) {
    total += member.size;
    if (total > MOST_BYTES) throw new Error("the goldens unpack to too much");
    const content = await unpacked(bytes, member);
    arrays[member.name.replace(/\.npy$/, "")] = parseNpy(content);
  }
  return arrays;
}

interface Member {
  name: string;
  method: number;
  packed: number;
  size: number;
  offset: number;
}

function members(bytes: Uint8Array): Member[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error("no zip file");
  const count = view.getUint16(end + 10, true), found: Member[] = [];
  let at = view.getUint32(end + 16, true);
  for (let i = 0; i < count; i++) {
    if (view.getUint32(at, true) !== CENTRAL) throw new Error("the zip file's directory is damaged");
    const length = view.getUint16(at + 28, true);
    found.push({
      name: new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + length)),
      method: view.getUint16(at + 10, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      offset: view.getUint32(at + 42, true),
    });
    at += 46 + length + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return found;
}

async function unpacked(bytes: Uint8Array, member: Member): Promise<Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), at = member.offset;
  const start = at + 30 + view.getUint16(at + 26, true) + view.getUint16(at + 28, true);
  const content = bytes.slice(start, start + member.packed);
  if (member.method === 0) return content;
  if (member.method !== 8) throw new Error(`the zip file uses method ${member.method}`);
  const reader = new Blob([content]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const result = new Uint8Array(member.size);
  let have = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (have + value.length > result.length) throw new Error(`${member.name} is larger than it says`);
    result.set(value, have);
    have += value.length;
  }
  if (have !== result.length) throw new Error(`${member.name} is shorter than it says`);
  return result;
}

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

function parseNpy(bytes: Uint8Array): Tensor & { text?: string } {
  if (!MAGIC.every((value, i) => bytes[i] === value)) throw new Error("a member is no array");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] >= 2, length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (wide ? 12 : 10) + length;
  const header = new TextDecoder("latin1").decode(bytes.subarray(wide ? 12 : 10, start));
  const kind = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (kind === undefined || shape === undefined || /'fortran_order':\s*True/.test(header)) {
    throw new Error("an array has a header that is not understood");
  }
  const dims = shape.split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  const count = dims.reduce((product, size) => product * size, 1);
  return arrayOf(kind, bytes.slice(start), dims, count);
}

function arrayOf(kind: string, body: Uint8Array<ArrayBuffer>, dims: number[], count: number):
  Tensor & { text?: string } {
  const sized = (width: number) => {
    if (body.length < count * width) throw new Error("an array is shorter than its header says");
    return body.buffer;
  };
  if (kind === "|u1") return { dtype: "uint8", data: new Uint8Array(sized(1), 0, count), dims };
  if (kind === "<f4") return { dtype: "float32", data: new Float32Array(sized(4), 0, count), dims };
  if (kind === "<f8") return { dtype: "float64", data: new Float64Array(sized(8), 0, count), dims };
  if (kind === "<i4") return { dtype: "int32", data: new Int32Array(sized(4), 0, count), dims };
  if (kind === "<i8") return { dtype: "int64", data: new BigInt64Array(sized(8), 0, count), dims };
  if (kind === "<f2") {
    return { dtype: "float32", data: Float32Array.from(new Uint16Array(sized(2), 0, count), halfToFloat), dims };
  }
  if (/^<U\d+$/.test(kind) && count === 1) {
    const points = new Uint32Array(sized(4 * Number(kind.slice(2))));
    const text = Array.from(points.filter(Boolean), (point) => String.fromCodePoint(point)).join("");
    return { dtype: "uint8", data: new Uint8Array(), dims, text };
  }
  throw new Error(`arrays of ${kind} are not read`);
}

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
