// What the page reads of an artifact's manifest.json: the fields of docs/manifest.schema.json that it needs.
import limits from "./limits.json";

export type Interpolation = "nearest" | "bilinear" | "bicubic" | "lanczos";

export interface Preprocess {
  size: [number, number];
  resize: "crop" | "stretch" | "tile";
  crop_pct: number;
  interpolation: Interpolation;
  overlap: number;
  multiple: number;
}

export interface Level {
  name: string;
  labels: string[];
  parents?: number[] | null;
}

export interface TensorSpec {
  name: string;
  shape: number[];
  dtype: string;
  meaning: string;
}

export interface FileEntry {
  path: string;
  bytes: number;
  sha256: string;
}

export interface Variant {
  runtime: string;
  precision: string;
  path: string;
  companions?: string[];
  device?: string;
  memory?: { fixed_mb: number; bytes_per_pixel: number } | null;
}

export interface Strength {
  low: number;
  high: number;
  default: number;
}

export interface Manifest {
  schema_version: number;
  name: string;
  version: string;
  task: string;
  levels: Level[];
  preprocess: Preprocess;
  inputs: TensorSpec[];
  outputs: TensorSpec[];
  files: FileEntry[];
  variants: Variant[];
  default: string;
  tolerances: Record<string, Record<string, number>>;
  strength?: Strength | null;
}

export const GOLDEN = "golden.npz";
export const MANIFEST = "manifest.json";
const MOST_BYTES = 16_000_000;
const PLAIN_NAME = /^[^/\\:]{1,255}$/;

/**
 * The manifest in `bytes`.
 * @throws Error with what is wrong in one line.
 */
export function parseManifest(bytes: Uint8Array): Manifest {
  if (bytes.length > MOST_BYTES) throw new Error("manifest.json is too large");
  const found = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as Manifest;
  const arrays = [found?.levels, found?.inputs, found?.outputs, found?.files, found?.variants];
  if (found?.schema_version !== 1 || !arrays.every(Array.isArray)) throw new Error("manifest.json is none of version 1");
  if (!Object.hasOwn(limits, found.task)) throw new Error(`this app does not know the task ${found.task}`);
  if (!found.files.every((entry) => PLAIN_NAME.test(entry.path) && entry.path !== ".." && entry.bytes >= 0)) {
    throw new Error("manifest.json lists a file with no plain name");
  }
  return found;
}

export function variantKey(variant: Variant): string {
  const device = variant.device && variant.device !== "cpu" ? `@${variant.device}` : "";
  return `${variant.runtime}:${variant.precision}${device}`;
}

/** The variants that a browser can run, in the order in which they are tried: the chosen one, fp32, the others. */
export function webVariants(manifest: Manifest): Variant[] {
  const able = manifest.variants.filter(
    (variant) =>
      variant.runtime === "onnxruntime" &&
      (variant.device ?? "cpu") === "cpu" &&
      variant.path.endsWith(".onnx") &&
      !variant.companions?.length,
  );
  const rank = (variant: Variant) =>
    variantKey(variant) === manifest.default ? 0 : variant.precision === "fp32" ? 1 : 2;
  return able.sort((a, b) => rank(a) - rank(b));
}

export function variantOf(manifest: Manifest, key: string): Variant {
  const found = manifest.variants.find((variant) => variantKey(variant) === key);
  if (!found) throw new Error(`the manifest has no variant ${key}`);
  return found;
}

export function fileEntry(manifest: Manifest, path: string): FileEntry {
  const found = manifest.files.find((entry) => entry.path === path);
  if (!found) throw new Error(`the manifest does not list ${path}`);
  return found;
}
