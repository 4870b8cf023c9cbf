// What the page and its inference worker say to each other. Every question has an id and gets exactly one reply; a reply
// to question 0, which nobody asked, is a sign of life.
import type { Manifest } from "./manifest";
import type { Answer } from "./tasks";

export type Backend = "wasm" | "webgpu";
export type DType = "uint8" | "int8" | "uint16" | "int32" | "int64" | "float32" | "float64" | "bool" | "float16";
export type Data =
  | Uint8Array | Int8Array | Uint16Array | Int32Array | BigInt64Array | Float32Array | Float64Array;

export interface Tensor {
  dtype: DType;
  data: Data;
  dims: number[];
}
export type Tensors = Record<string, Tensor>;

export interface OpenOptions {
  /** Of the WASM engine; all sessions of one worker share them, the first one decides. */
  threads: number;
  backend: Backend;
}

export interface Opened {
  session: number;
  inputs: string[];
  outputs: string[];
  backend: Backend;
  threads: number;
  version: string;
  ms: number;
}

export interface Ran {
  outputs: Tensors;
  /** Inside the engine, copies included. */
  ms: number;
}

/** What the golden check found; `faults` is empty where the model answers as the trained one did. */
export interface Proof {
  faults: string[];
  ms: number;
  count: number;
}

export interface Frame {
  /** (height, width, 4) RGBA as a canvas gives it. */
  rgba: Uint8ClampedArray<ArrayBuffer>;
  width: number;
  height: number;
}

export interface Asked {
  open: { args: { bytes: Uint8Array; options: OpenOptions }; reply: Opened };
  run: { args: { session: number; inputs: Tensors }; reply: Ran };
  release: { args: { session: number }; reply: null };
  prove: { args: { session: number; manifest: Manifest; precision: string; golden: Uint8Array }; reply: Proof };
  agree: { args: { first: number; second: number; manifest: Manifest; precision: string; golden: Uint8Array };
    reply: Proof };
  answer: { args: { session: number; manifest: Manifest; variant: string; frame: Frame; strength: number | null };
    reply: Answer };
  reset: { args: Record<string, never>; reply: null };
}
export const ALIVE = { id: 0, ok: true, value: null } as const;
export type Kind = keyof Asked;
export type Question = { [K in Kind]: { id: number; kind: K; args: Asked[K]["args"] } }[Kind];
/** `silent`: the page's own finding, no worker says it. */
export type Trouble = "memory" | "damaged" | "silent" | "other";
export type Reply =
  | { id: number; ok: true; value: Asked[Kind]["reply"] }
  | { id: number; ok: false; trouble: Trouble; message: string };
