// Pictures that keep their resolution: whole through the file, or in overlapping tiles with linear weights, as
// pocketvit's spec/tiles.py and runtimes/whole.py do it.
import type { Preprocess, Variant } from "./manifest";
import { roundEven } from "./preprocess";
import type { Picture } from "./resample";

/** MB above the idle page that a run may take: a phone has less to spare than the 1000 of a computer. */
export const LIMIT_MB = 400;
const WHOLE_BYTES = 33;
const TILE_BYTES = 39;
const PHOTO_BYTES = 9;
const UNMEASURED = { fixed_mb: 50, bytes_per_pixel: 600 };

export type RunTile = (tile: Picture) => Promise<Float32Array>;

export function starts(length: number, tile: number, overlap: number): number[] {
  if (length <= tile) return [0];
  const count = Math.ceil((length - overlap) / (tile - overlap));
  return Array.from({ length: count }, (_, i) => roundEven((i * (length - tile)) / (count - 1)));
}

export function axisWeights(positions: number[], tile: number): Float32Array[] {
  const total = new Float32Array(positions[positions.length - 1] + tile);
  const ramps = positions.map((start, index) => {
    const ramp = new Float32Array(tile).fill(1);
    if (index > 0) {
      const shared = positions[index - 1] + tile - start;
      for (let i = 0; i < shared; i++) ramp[i] = (i + 0.5) / Math.max(shared, 1);
    }
    if (index + 1 < positions.length) {
      const shared = start + tile - positions[index + 1];
      for (let i = 0; i < shared; i++) {
        const at = tile - shared + i;
        ramp[at] = Math.min(ramp[at], 1 - (i + 0.5) / Math.max(shared, 1));
      }
    }
    for (let i = 0; i < tile; i++) total[start + i] += ramp[i];
    return ramp;
  });
  positions.forEach((start, index) => {
    for (let i = 0; i < tile; i++) ramps[index][i] /= total[start + i];
  });
  return ramps;
}

/** Height and width of the tiles for a picture, or null where it runs whole. */
export function tileFor(
  height: number, width: number, spec: Preprocess, variant: Variant, limitMb = LIMIT_MB,
): [number, number] | null {
  if (!spec.multiple) return spec.size;
  const up = (side: number) => Math.ceil(side / spec.multiple) * spec.multiple;
  const down = (value: number) => Math.floor(Math.trunc(value) / spec.multiple) * spec.multiple;
  const fullH = up(height), fullW = up(width), memory = variant.memory ?? UNMEASURED;
  const area = fullH * fullW, fixed = memory.fixed_mb * 1e6;
  if (area * (memory.bytes_per_pixel + WHOLE_BYTES) + fixed <= limitMb * 1e6) return null;
  const pixels = Math.max(limitMb * 1e6 - fixed - PHOTO_BYTES * area, 0) / (memory.bytes_per_pixel + TILE_BYTES);
  let tileH = Math.min(fullH, Math.max(up(spec.size[0]), down(Math.sqrt(pixels))));
  const tileW = Math.min(fullW, Math.max(up(spec.size[1]), down(pixels / tileH)));
  tileH = Math.min(fullH, Math.max(tileH, down(pixels / tileW)));
  return tileH === fullH && tileW === fullW ? null : [tileH, tileW];
}

/** Round and clip floats of 0 to 255. */
export function toPixels(values: Float32Array | Float64Array, width: number, height: number): Picture {
  const data = new Uint8Array(values.length);
  for (let i = 0; i < data.length; i++) data[i] = Math.min(255, Math.max(0, roundEven(values[i])));
  return { data, width, height };
}

export async function runTiled(
  run: RunTile, image: Picture, size: [number, number], overlap: number,
): Promise<Picture> {
  const [tileH, tileW] = size, { height, width } = image;
  const rows = starts(height, tileH, overlap), columns = starts(width, tileW, overlap);
  const down = axisWeights(rows, tileH), across = axisWeights(columns, tileW);
  const sums = new Float32Array(height * width * 3), { fround } = Math;
  for (let r = 0; r < rows.length; r++) {
    // In float32 and in Python's order, so that both round to the same pixels.
    const strip = new Float32Array(tileH * width * 3), lines = Math.min(tileH, height - rows[r]);
    for (let c = 0; c < columns.length; c++) {
      const answer = await run(cutReflected(image, rows[r], columns[c], tileH, tileW));
      const places = Math.min(tileW, width - columns[c]);
      for (let y = 0; y < lines; y++) {
        for (let x = 0; x < places; x++) {
          const weight = across[c][x], from = (y * tileW + x) * 3, to = (y * width + columns[c] + x) * 3;
          for (let k = 0; k < 3; k++) strip[to + k] += fround(answer[from + k] * weight);
        }
      }
    }
    for (let y = 0; y < lines; y++) {
      const from = y * width * 3, to = (rows[r] + y) * width * 3;
      for (let i = 0; i < width * 3; i++) sums[to + i] += fround(strip[from + i] * down[r][y]);
    }
  }
  return toPixels(sums, width, height);
}

/** What the picture lacks is its reflection, without the pixel at the edge (NumPy's "reflect"). */
function cutReflected(image: Picture, top: number, left: number, height: number, width: number): Picture {
  const data = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    const row = reflected(top + y, image.height);
    for (let x = 0; x < width; x++) {
      const from = (row * image.width + reflected(left + x, image.width)) * 3, to = (y * width + x) * 3;
      data[to] = image.data[from];
      data[to + 1] = image.data[from + 1];
      data[to + 2] = image.data[from + 2];
    }
  }
  return { data, width, height };
}

function reflected(place: number, length: number): number {
  if (length === 1) return 0;
  const period = 2 * (length - 1), at = place % period;
  return at < length ? at : period - at;
}
