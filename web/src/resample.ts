// Pillow's resize of 8-bit pictures, to the last bit: two passes with antialiased filters in fixed-point arithmetic
// (ImagingResample in Pillow's src/libImaging/Resample.c, "nearest" as ImagingScaleAffine in Geometry.c).
import type { Interpolation } from "./manifest";

/** (height, width, 3) RGB. */
export interface Picture {
  data: Uint8Array;
  width: number;
  height: number;
}
/** left, top, right, bottom */
export type Box = [number, number, number, number];

const BITS = 22; // 32 less 8 for the pixel and 2 for sums beyond it
const CHANNELS = 3;

interface Filter {
  support: number;
  weight(x: number): number;
}

function cubic(x: number): number {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x: number): number {
  if (x === 0) return 1;
  x *= Math.PI;
  return Math.sin(x) / x;
}

const FILTERS: Record<Exclude<Interpolation, "nearest">, Filter> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
  lanczos: { support: 3, weight: (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** For each place of the result: where its sources begin, and their weights in fixed point. */
interface Kernel {
  first: Int32Array;
  count: Int32Array;
  weights: Int32Array;
  stride: number;
}

function kernelOf(filter: Filter, length: number, low: number, high: number, size: number): Kernel {
  const scale = (high - low) / size;
  const filterScale = Math.max(1, scale);
  const support = filter.support * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const kernel = {
    first: new Int32Array(size),
    count: new Int32Array(size),
    weights: new Int32Array(size * stride),
    stride,
  };
  const row = new Float64Array(stride);
  for (let place = 0; place < size; place++) {
    const centre = low + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(length, Math.trunc(centre + support + 0.5)) - first;
    let total = 0;
    for (let i = 0; i < count; i++) {
      row[i] = filter.weight((i + first - centre + 0.5) * (1 / filterScale));
      total += row[i];
    }
    for (let i = 0; i < count; i++) {
      const weight = total !== 0 ? row[i] / total : row[i];
      kernel.weights[place * stride + i] = Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * (1 << BITS));
    }
    kernel.first[place] = first;
    kernel.count[place] = count;
  }
  return kernel;
}

function clipped(sum: number): number {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function acrossRows(image: Picture, kernel: Kernel, width: number): Picture {
  const data = new Uint8Array(image.height * width * CHANNELS);
  for (let y = 0; y < image.height; y++) {
    const row = y * image.width * CHANNELS;
    for (let x = 0; x < width; x++) {
      const start = row + kernel.first[x] * CHANNELS;
      mixed(image.data, start, CHANNELS, kernel, x, data, (y * width + x) * CHANNELS);
    }
  }
  return { data, width, height: image.height };
}

function downColumns(image: Picture, kernel: Kernel, height: number): Picture {
  const step = image.width * CHANNELS;
  const data = new Uint8Array(height * step);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < image.width; x++) {
      const start = kernel.first[y] * step + x * CHANNELS;
      mixed(image.data, start, step, kernel, y, data, y * step + x * CHANNELS);
    }
  }
  return { data, width: image.width, height };
}

/** One pixel of the result: the weighted sum of `kernel.count[place]` pixels that lie `step` bytes apart. */
function mixed(
  from: Uint8Array, start: number, step: number, kernel: Kernel, place: number, to: Uint8Array, at: number,
): void {
  let red = 1 << (BITS - 1), green = red, blue = red;
  const weights = place * kernel.stride;
  for (let i = 0; i < kernel.count[place]; i++) {
    const weight = kernel.weights[weights + i], pixel = start + i * step;
    red += from[pixel] * weight;
    green += from[pixel + 1] * weight;
    blue += from[pixel + 2] * weight;
  }
  to[at] = clipped(red);
  to[at + 1] = clipped(green);
  to[at + 2] = clipped(blue);
}

function nearestResize(image: Picture, width: number, height: number, box: Box): Picture {
  const data = new Uint8Array(width * height * CHANNELS);
  const stepX = (box[2] - box[0]) / width, stepY = (box[3] - box[1]) / height;
  let placeY = box[1] + stepY * 0.5;
  for (let y = 0; y < height; y++, placeY += stepY) {
    const row = Math.min(image.height - 1, Math.floor(placeY));
    let placeX = box[0] + stepX * 0.5; // added up, as Pillow does: products would round otherwise
    for (let x = 0; x < width; x++, placeX += stepX) {
      const from = (row * image.width + Math.min(image.width - 1, Math.floor(placeX))) * CHANNELS;
      data.set(image.data.subarray(from, from + CHANNELS), (y * width + x) * CHANNELS);
    }
  }
  return { data, width, height };
}

/** `image`, or the part of it in `box` (whose sides Pillow rounds to float32), at another size. */
export function resize(
  image: Picture, height: number, width: number, interpolation: Interpolation = "bicubic", box?: Box,
): Picture {
  if (!box && image.width === width && image.height === height) return image;
  const whole: Box = [0, 0, image.width, image.height];
  const [left, top, right, bottom] = (box ?? whole).map(Math.fround) as Box;
  if (interpolation === "nearest") return nearestResize(image, width, height, [left, top, right, bottom]);
  const filter = FILTERS[interpolation];
  const passes: ((from: Picture) => Picture)[] = [];
  if (width !== image.width || left !== 0 || right !== image.width) {
    passes.push((from) => acrossRows(from, kernelOf(filter, image.width, left, right, width), width));
  }
  if (height !== image.height || top !== 0 || bottom !== image.height) {
    passes.push((from) => downColumns(from, kernelOf(filter, image.height, top, bottom, height), height));
  }
  // Between the passes values are rounded to 8 bits, so their order shows. This is that of Pillow 13, found by trying;
  // before it, the pass across always came first.
  const lost = image.height - height;
  if (lost > 0 && lost > 2 * (image.width - width)) passes.reverse();
  return passes.reduce((result, pass) => pass(result), image);
}
