// The golden check of pocketvit's spec/parity.py in the page: a file answers its golden inputs as the trained model did,
// within the task's limits and those of the manifest where they are tighter.
import { FIGURES, type Golden, type Limits, type Outputs } from "./figures";
import table from "./limits.json";
import type { Manifest } from "./manifest";
import { readNpz, type Arrays } from "./npz";
import { prepare } from "./preprocess";
import type { Data, Proof, Tensors } from "./protocol";

type Table = Record<string, { relative: boolean; precisions: Record<string, Limits> }>;
export type RunPixels = (data: Uint8Array, dims: number[]) => Promise<Tensors>;

const UPPER = ["max_abs", "mean_abs", "metric_drop"];
const LOWER = ["min_cosine", "mean_cosine", "min_agreement"];

export function limitsOf(manifest: Manifest, precision: string): Limits {
  const own = (table as Table)[manifest.task].precisions[precision];
  if (!own) throw new Error(`there are no limits for the precision ${precision}`);
  const stated = manifest.tolerances[precision] ?? {};
  for (const [name, value] of Object.entries(stated)) {
    if (![...UPPER, ...LOWER].includes(name)) throw new Error(`the manifest states an unknown limit ${name}`);
    if (name in own && (UPPER.includes(name) ? value > own[name] : value < own[name])) {
      throw new Error(`the manifest's limit ${name} is looser than ${own[name]}`);
    }
  }
  return { ...own, ...stated };
}

/** @throws Error where the goldens are damaged or do not go with the manifest. */
export async function readGolden(bytes: Uint8Array, manifest: Manifest): Promise<Golden> {
  const arrays = await readNpz(bytes);
  const { data, dims } = arrays.inputs ?? { data: new Uint8Array(), dims: [] };
  if (!(data instanceof Uint8Array) || dims.length !== 4 || dims[3] !== 3) throw new Error("the goldens have no inputs");
  const size = dims[1] * dims[2] * 3, outputs: Outputs = {};
  for (const { name } of manifest.outputs) {
    const all = arrays[`output.${name}`];
    if (!all || all.dims[0] !== dims[0]) throw new Error(`the goldens have no output ${name}`);
    const length = all.data.length / dims[0];
    outputs[name] = Array.from({ length: dims[0] }, (_, i) => all.data.subarray(i * length, (i + 1) * length));
  }
  checkBinding(arrays, manifest);
  const input = (index: number) => data.slice(index * size, (index + 1) * size);
  const golden = { count: dims[0], dims: [1, ...dims.slice(1)], input, outputs, arrays };
  checkPixels(golden, manifest);
  return golden;
}

/** Preprocessing, labels and outputs of the manifest are those that the goldens were made with. */
function checkBinding(arrays: Arrays, manifest: Manifest): void {
  const used = JSON.parse(arrays.preprocess?.text ?? "null") as Record<string, unknown>;
  const stated = manifest.preprocess as unknown as Record<string, unknown>;
  for (const name of Object.keys(stated)) {
    if (!same(stated[name], used?.[name])) throw new Error(`preprocess.${name} is not what the goldens were made with`);
  }
  const contract = arrays.contract?.text;
  if (!contract) return;
  const { task, inputs, outputs } = manifest;
  const levels = manifest.levels.map((level) => ({ ...level, parents: level.parents ?? null }));
  if (!same(JSON.parse(contract), { task, levels, inputs, outputs })) {
    throw new Error("the goldens were made with other labels or outputs than the manifest states");
  }
}

function same(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const keys = Object.keys(a);
  const other = b as Record<string, unknown>;
  return keys.length === Object.keys(other).length
    && keys.every((key) => same((a as Record<string, unknown>)[key], other[key]));
}

/** Preprocessing the stored sources here gives the stored inputs, pixel for pixel. */
function checkPixels(golden: Golden, manifest: Manifest): void {
  if (manifest.preprocess.resize === "tile") return;
  for (let i = 0; golden.arrays[`source.${i}`]; i++) {
    const { data, dims } = golden.arrays[`source.${i}`], stored = golden.input(i);
    const made = prepare({ data: data as Uint8Array, height: dims[0], width: dims[1] }, manifest.preprocess).data;
    if (made.length !== stored.length || made.some((value, at) => value !== stored[at])) {
      throw new Error(`preprocessing golden source ${i} gives other pixels here`);
    }
  }
}

export async function runGoldens(run: RunPixels, golden: Golden, manifest: Manifest): Promise<Outputs> {
  const found: Outputs = Object.fromEntries(manifest.outputs.map(({ name }) => [name, [] as Data[]]));
  for (let i = 0; i < golden.count; i++) {
    const answer = await run(golden.input(i), golden.dims);
    for (const { name } of manifest.outputs) {
      if (!answer[name]) throw new Error(`the file has no output ${name}`);
      found[name].push(answer[name].data);
    }
  }
  return found;
}

/** Everything that keeps `outputs` from being the golden ones. */
export function faultsOf(manifest: Manifest, precision: string, outputs: Outputs, golden: Golden): string[] {
  const limits = limitsOf(manifest, precision), relative = (table as Table)[manifest.task].relative;
  const faults: string[] = [];
  for (const { name } of manifest.outputs) {
    const lengths = outputs[name].every((one, i) => one.length === golden.outputs[name][i].length);
    if (!lengths) return [`output ${name} has another shape than the golden one`];
    faults.push(...violations(compared(outputs[name], golden.outputs[name], relative), limits, `${name}: `));
  }
  return [...faults, ...violations(FIGURES[manifest.task](manifest, outputs, golden), limits, "")];
}

function violations(figures: Limits, limits: Limits, prefix: string): string[] {
  return Object.entries(figures)
    .filter(([name, value]) => name in limits && !(UPPER.includes(name) ? value <= limits[name] : value >= limits[name]))
    .map(([name, value]) => {
      const side = UPPER.includes(name) ? "at most" : "at least";
      return `${prefix}${name} ${value.toPrecision(4)}, allowed ${side} ${limits[name]}`;
    });
}

function compared(answers: Data[], goldens: Data[], relative: boolean): Limits {
  const figures = { max_abs: 0, mean_abs: 0, min_cosine: Infinity, mean_cosine: 0 };
  answers.forEach((answer, i) => {
    const golden = goldens[i], n = answer.length;
    let dot = 0, own = 0, other = 0, largest = 0, total = 0, size = 0, equal = true;
    for (let k = 0; k < n; k++) {
      const a = Number(answer[k]), b = Number(golden[k]), apart = Math.abs(a - b);
      dot += a * b;
      own += a * a;
      other += b * b;
      largest = largest >= apart ? largest : apart; // a NaN stays
      total += apart;
      size += Math.abs(b);
      equal &&= a === b;
    }
    const norm = Math.sqrt(own) * Math.sqrt(other), cosine = norm === 0 ? Number(equal) : dot / norm;
    const scale = relative ? Math.max(size / n, 1e-12) : 1;
    figures.max_abs = Math.max(figures.max_abs, largest / scale);
    figures.mean_abs += total / n / scale / answers.length;
    figures.min_cosine = Math.min(figures.min_cosine, cosine);
    figures.mean_cosine += cosine / answers.length;
  });
  return figures;
}

export async function prove(
  run: RunPixels, manifest: Manifest, precision: string, bytes: Uint8Array,
): Promise<Proof> {
  const began = performance.now(), golden = await readGolden(bytes, manifest);
  const faults = faultsOf(manifest, precision, await runGoldens(run, golden, manifest), golden);
  return { faults, ms: performance.now() - began, count: golden.count };
}

/** Whether one engine gives the other's answers to the golden inputs, within the limits of float32. */
export async function agree(
  first: RunPixels, second: RunPixels, manifest: Manifest, precision: string, bytes: Uint8Array,
): Promise<Proof> {
  const began = performance.now(), golden = await readGolden(bytes, manifest);
  const reference = { ...golden, outputs: await runGoldens(first, golden, manifest) };
  const faults = faultsOf(manifest, precision, await runGoldens(second, golden, manifest), reference);
  return { faults, ms: performance.now() - began, count: golden.count };
}
