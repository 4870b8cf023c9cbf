// How a picture becomes the model's input: the same as pocketvit's spec/preprocess.py, held together by golden pixels.
// Mean and standard deviation are in the exported graph, which takes pixels.
import type { Preprocess } from "./manifest";
import { resize, type Picture } from "./resample";

const MAX_GROWTH = 32;

/** Halves go to the even neighbour, as in NumPy and Python. */
export function roundEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

export function rgbOf(rgba: Uint8ClampedArray | Uint8Array, width: number, height: number): Picture {
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height };
}

export function rgbaOf(picture: Picture): Uint8ClampedArray<ArrayBuffer> {
  const data = new Uint8ClampedArray(picture.width * picture.height * 4);
  for (let from = 0, to = 0; to < data.length; from += 3, to += 4) {
    data[to] = picture.data[from];
    data[to + 1] = picture.data[from + 1];
    data[to + 2] = picture.data[from + 2];
    data[to + 3] = 255;
  }
  return data;
}

export function cut(image: Picture, top: number, left: number, height: number, width: number): Picture {
  const data = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * 3;
    data.set(image.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { data, width, height };
}

/** The input of a fixed size for a picture; `resize: tile` keeps the picture and is the business of tiles.ts. */
export function prepare(image: Picture, spec: Preprocess): Picture {
  const [targetH, targetW] = spec.size;
  if (spec.resize === "tile") throw new Error("a tiled preprocessing has no single input");
  if (spec.resize === "stretch") return resize(image, targetH, targetW, spec.interpolation);
  const { height, width } = image;
  const scale = Math.max(Math.floor(targetH / spec.crop_pct) / height, Math.floor(targetW / spec.crop_pct) / width);
  const wholeH = Math.max(targetH, Math.trunc(height * scale + 1e-6));
  const wholeW = Math.max(targetW, Math.trunc(width * scale + 1e-6));
  const top = roundEven((wholeH - targetH) / 2), left = roundEven((wholeW - targetW) / 2);
  if (wholeH * wholeW > MAX_GROWTH * targetH * targetW) return resizePart(image, wholeH, wholeW, top, left, spec);
  return cut(resize(image, wholeH, wholeW, spec.interpolation), top, left, targetH, targetW);
}

/** What would be cut of a picture that becomes far too large, at no more cost than that part: see preprocess.py. */
function resizePart(
  image: Picture, wholeH: number, wholeW: number, top: number, left: number, spec: Preprocess,
): Picture {
  const span = (side: number, full: number, first: number, size: number) => {
    const scale = side / full;
    const reach = Math.ceil(3 * Math.max(scale, 1)) + 1;
    const low = Math.max(0, Math.floor(first * scale) - reach);
    const high = Math.min(side, Math.ceil((first + size) * scale) + reach);
    return { low, high, from: first * scale - low, to: Math.min((first + size) * scale, side) - low };
  };
  const [size_h, size_w] = spec.size;
  const rows = span(image.height, wholeH, top, size_h), columns = span(image.width, wholeW, left, size_w);
  const part = cut(image, rows.low, columns.low, rows.high - rows.low, columns.high - columns.low);
  return resize(part, size_h, size_w, spec.interpolation, [columns.from, rows.from, columns.to, rows.to]);
}
