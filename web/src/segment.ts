// Masks: classes at the frame's size, in colours over it: as pocketvit's spec/mask_pictures.py, number for number.
// The legend is words on the page, for readers of screens too.
import type { TensorSpec } from "./manifest";
import type { Data } from "./protocol";
import type { Picture } from "./resample";

const PALETTE = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0], [240, 228, 66],
  [120, 94, 240], [170, 68, 85], [68, 119, 68], [187, 187, 187], [102, 51, 0], [0, 191, 196], [255, 128, 128],
];
const SHADES = 4, TINT = 115, EDGE = 255, EDGE_SHARE = 640;
const IGNORED = 255;

/** What the picture shows of a class. */
export interface Part {
  label: string;
  colour: number[];
  /** Of the picture, 0 to 1. */
  share: number;
}

export function colourOf(index: number): number[] {
  const shade = SHADES - (Math.floor(index / PALETTE.length) % (SHADES - 1));
  return PALETTE[index % PALETTE.length].map((value) => Math.floor((value * shade) / SHADES));
}

interface Axis {
  low: Int32Array;
  high: Int32Array;
  part: Float32Array;
}

function axis(have: number, wanted: number): Axis {
  const found = { low: new Int32Array(wanted), high: new Int32Array(wanted), part: new Float32Array(wanted) };
  for (let i = 0; i < wanted; i++) {
    const place = Math.min(have - 1, Math.max(0, ((i + 0.5) * have) / wanted - 0.5)), low = Math.floor(place);
    found.low[i] = low;
    found.high[i] = Math.min(low + 1, have - 1);
    found.part[i] = place - low;
  }
  return found;
}

/** Probabilities (K, h, w) to the class of each pixel (height, width); of equal ones the first wins. */
export function classesAt(probs: Data, dims: number[], height: number, width: number): Uint8Array {
  const [count, h, w] = dims, rows = axis(h, height), columns = axis(w, width), { fround } = Math;
  const which = new Uint8Array(height * width), best = new Float32Array(height * width).fill(-Infinity);
  const across = new Float32Array(h * width);
  const least = leastBest(probs, count, h * w);
  for (let k = 0; k < count; k++) {
    const strong = strongPart(probs, k * h * w, h, w, least); // elsewhere it cannot win: see Python's classes_at
    if (!strong) continue;
    const [top, bottom] = between(rows.low, strong.top, strong.bottom);
    const [left, right] = between(columns.low, strong.left, strong.right);
    for (let y = Math.max(0, strong.top - 1); y <= Math.min(h - 1, strong.bottom + 1); y++) {
      for (let x = left, from = (k * h + y) * w; x < right; x++) {
        const a = Number(probs[from + columns.low[x]]), b = Number(probs[from + columns.high[x]]);
        across[y * width + x] = fround(a + fround(columns.part[x] * fround(b - a)));
      }
    }
    for (let y = top; y < bottom; y++) {
      const low = rows.low[y] * width, high = rows.high[y] * width, part = rows.part[y];
      for (let x = left, to = y * width + left; x < right; x++, to++) {
        const a = across[low + x], value = fround(a + fround(part * fround(across[high + x] - a)));
        if (value > best[to]) {
          best[to] = value;
          which[to] = k;
        }
      }
    }
  }
  return which;
}

/** The rectangle of places (h, w) with at least `least`, its sides among them; none where no place has. */
function strongPart(probs: Data, from: number, h: number, w: number, least: number) {
  const found = { top: h, bottom: -1, left: w, right: -1 };
  for (let y = 0, i = from; y < h; y++) {
    for (let x = 0; x < w; x++, i++) {
      if (Number(probs[i]) < least) continue;
      if (y < found.top) found.top = y;
      if (x < found.left) found.left = x;
      if (x > found.right) found.right = x;
      found.bottom = y;
    }
  }
  return found.bottom < 0 ? null : found;
}

/** From which to before which of the places with these first neighbours (rising) one lies in first to last. */
function between(low: Int32Array, first: number, last: number): [number, number] {
  let from = 0, to = low.length;
  while (low[from] < first - 1) from++;
  while (low[to - 1] > last) to--;
  return [from, to];
}

/** What the best class of any pixel has at least. */
function leastBest(probs: Data, count: number, places: number): number {
  let least = Infinity;
  for (let i = 0; i < places; i++) {
    let best = -Infinity;
    for (let k = 0; k < count; k++) best = Math.max(best, Number(probs[k * places + i]));
    least = Math.min(least, best);
  }
  return (0.99 * least) / 4;
}

/** The photo tinted by the class of each pixel, with white lines between classes. */
export function painted(photo: Picture, classes: Uint8Array, count: number): Picture {
  const { width, height } = photo, data = new Uint8Array(photo.data);
  const wide = Math.max(1, Math.floor(Math.max(width, height) / EDGE_SHARE));
  const table = Array.from({ length: count }, (_, k) => colourOf(k));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const own = classes[i], colour = table[own];
      const edge = (y + wide < height && classes[i + wide * width] !== own)
        || (x + wide < width && classes[i + wide] !== own);
      for (let k = 3 * i; k < 3 * i + 3; k++) {
        if (edge) data[k] = EDGE;
        else if (colour) data[k] = (data[k] * (256 - TINT) + colour[k - 3 * i] * TINT + 128) >> 8;
      }
    }
  }
  return { data, width, height };
}

/** Classes that are there, the largest first: of the model's own answer, as Python counts them. */
export function partsOf(probs: Data, dims: number[], labels: string[]): Part[] {
  const [count, h, w] = dims, found = classesAt(probs, dims, h, w), pixels = new Array<number>(count).fill(0);
  for (const each of found) pixels[each]++;
  return labels
    .map((label, k) => ({ label, colour: colourOf(k), share: pixels[k] / found.length }))
    .filter(({ share }) => share > 0)
    .sort((a, b) => b.share - a.share);
}

/** Loss of the mean overlap on the goldens, and the share of pixels that are decided alike, in percent. */
export function segmentFigures(
  answers: Data[], goldens: Data[], output: TensorSpec, truth: { data: Data; dims: number[] },
): Record<string, number> {
  const dims = output.shape.slice(1), [, h, w] = dims, [, height, width] = truth.dims;
  let same = 0;
  answers.forEach((answer, i) => {
    const own = classesAt(answer, dims, h, w), other = classesAt(goldens[i], dims, h, w);
    for (let k = 0; k < own.length; k++) same += Number(own[k] === other[k]);
  });
  const score = (all: Data[]) => meanOverlap(all.map((one) => classesAt(one, dims, height, width)), truth.data, dims[0]);
  return {
    metric_drop: score(goldens) - score(answers),
    min_agreement: (100 * same) / (answers.length * h * w),
  };
}

function meanOverlap(answers: Uint8Array[], truth: Data, count: number): number {
  const both = new Array<number>(count).fill(0), either = new Array<number>(count).fill(0);
  answers.forEach((answer, i) => {
    for (let k = 0; k < answer.length; k++) {
      const wanted = Number(truth[i * answer.length + k]), own = answer[k];
      if (wanted === IGNORED) continue;
      either[wanted]++;
      if (own === wanted) both[wanted]++;
      else either[own]++;
    }
  });
  const there = either.map((pixels, k) => (pixels ? both[k] / pixels : null)).filter((value) => value !== null);
  return (100 * there.reduce((sum, value) => sum + value, 0)) / there.length;
}
