// ONNX Runtime in the browser: a model file's bytes become a session that takes and gives plain typed arrays.
//
// The WASM build is loaded with this module; that for WebGPU is several times larger and fetched only when it is asked
// for. Both are served from where the page comes from. The WASM engine has one pool of threads for all its sessions:
// it is made at the first `openSession`, so another number of threads needs another worker.
import type * as Ort from "onnxruntime-web";
import { mostThreads } from "./device";
import type { Backend, Data, DType, OpenOptions, Tensors } from "./protocol";
import mjsUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import gpuMjsUrl from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import gpuWasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";

export interface Session {
  readonly backend: Backend;
  readonly threads: number;
  /** Of ONNX Runtime. */
  readonly version: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  run(inputs: Tensors): Promise<Tensors>;
  release(): Promise<void>;
}

const engines: Partial<Record<Backend, Promise<typeof Ort>>> = {};
let pool = 0;

/**
 * Open a model file.
 * @throws whatever the engine has against the file, or where there is too little memory.
 */
export async function openSession(bytes: Uint8Array, options: OpenOptions): Promise<Session> {
  const ort = await engine(options.backend, options.threads);
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: [options.backend],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
  });
  return {
    backend: options.backend,
    threads: pool,
    version: ort.env.versions.web ?? ort.env.versions.common,
    inputs: session.inputNames,
    outputs: session.outputNames,
    run: (inputs) => run(ort, session, inputs),
    release: () => session.release(),
  };
}

async function run(ort: typeof Ort, session: Ort.InferenceSession, inputs: Tensors): Promise<Tensors> {
  const feeds: Record<string, Ort.Tensor> = {};
  for (const [name, { dtype, data, dims }] of Object.entries(inputs)) {
    feeds[name] = new ort.Tensor(dtype, data as never, dims);
  }
  const answers: Tensors = {};
  for (const [name, value] of Object.entries(await session.run(feeds))) {
    answers[name] = { dtype: value.type as DType, data: (await value.getData(true)) as Data, dims: [...value.dims] };
  }
  return answers;
}

function engine(backend: Backend, threads: number): Promise<typeof Ort> {
  pool ||= Math.max(1, Math.min(threads, mostThreads()));
  if (Math.min(threads, mostThreads()) > pool) {
    throw new Error(`this worker was started with ${pool} threads; open another one for ${threads}`);
  }
  return (engines[backend] ??= backend === "wasm" ? wasmEngine() : gpuEngine());
}

async function wasmEngine(): Promise<typeof Ort> {
  return prepared(await import("onnxruntime-web/wasm"), mjsUrl, wasmUrl);
}

async function gpuEngine(): Promise<typeof Ort> {
  return prepared(await import("onnxruntime-web/webgpu"), gpuMjsUrl, gpuWasmUrl);
}

function prepared(ort: typeof Ort, mjs: string, wasm: string): typeof Ort {
  ort.env.wasm.wasmPaths = { mjs: absolute(mjs), wasm: absolute(wasm) };
  ort.env.wasm.numThreads = pool;
  ort.env.wasm.proxy = false;
  ort.env.logLevel = "error";
  return ort;
}

function absolute(url: string): string {
  return new URL(url, import.meta.url).href;
}
