// Which model runs: opens what is installed, takes what the server offers once it is proven, keeps the one before.
//
// The rules are those of docs/updates.md, "What a receiver does". Keys are pinned at the first contact that names any.
// A model that came over no channel has no signature: its checksums are checked, and the page says that it is unsigned.
import { InferenceWorker, twice, WorkerError } from "./client";
import { hasWebGPU, mostThreads } from "./device";
import { fileEntry, GOLDEN, MANIFEST, parseManifest, variantKey, variantOf, webVariants } from "./manifest";
import type { Manifest, Variant } from "./manifest";
import type { Backend } from "./protocol";
import { file, TokenNeeded, Unreachable, type Offer, type Progress } from "./server";
import { opened, sha256 } from "./signing";
import type { Installed, ModelState, Store } from "./store";

const MOST_MANIFEST = 16_000_000;
const MOST_REFUSED = 50;

export type Reason =
  | "signature" | "downgrade" | "foreign" | "unsigned" | "checksum" | "golden" | "failed" | "format" | "memory" | "engine";

/** An update that is not taken; what runs goes on running. */
export class Refused extends Error {
  constructor(readonly reason: Reason, detail: string) {
    super(detail);
  }
}

/** What failed since the page was opened; it is not fetched again before somebody asks for it. */
export class Tried extends Refused {}

/** What is installed is not what it was. */
export class Damaged extends Error {}

/** A model in a worker of its own. */
export interface Running {
  worker: InferenceWorker;
  session: number;
  manifest: Manifest;
  variant: string;
  installed: Installed;
  backend: Backend;
  threads: number;
  /** Why WebGPU is not used, where the browser has it. */
  gpuFault: string;
  /** Changes to WebGPU where that agrees; it may take long, and frames are answered meanwhile. Null once it is done. */
  tryGpu: (() => Promise<void>) | null;
}

export interface Trust {
  signed: { counter: number; keyId: string; payloadSha256: string } | null;
  manifestSha256: string;
}

/** Pin the server's keys at the first contact that names any; later ones change nothing. */
export async function pinnedKeys(store: Store, named: string[]): Promise<string[]> {
  const pinned = (await store.get<string[]>("keys")) ?? [];
  if (pinned.length || !named.length) return pinned;
  await store.set("keys", named);
  return named;
}

/** Whether an offer may be taken, before anything of it is fetched. @throws Refused */
export async function trusted(store: Store, state: ModelState, offer: Offer, keys: string[]): Promise<Trust> {
  if (offer.description === null) {
    // Once something signed was seen, nothing unsigned is taken, whether or not what was signed still runs here.
    if (state.counter > 0 && offer.manifest_sha256 !== state.current?.manifestSha256) {
      throw new Refused("unsigned", `${offer.name} ${offer.version} is not signed`);
    }
    return { signed: null, manifestSha256: offer.manifest_sha256 };
  }
  const { description, payloadSha256, keyId } = await opened(offer.description, keys).catch((error: Error) => {
    throw new Refused("signature", error.message);
  });
  if (description.name !== state.name) throw new Refused("foreign", `it is signed for ${description.name}`);
  const { counter, manifest_sha256: manifestSha256 } = description, signed = { counter, keyId, payloadSha256 };
  if (description.version !== offer.version) throw new Refused("signature", "another version is signed");
  // A server that went back to what runs here offers nothing new.
  if (manifestSha256 === state.current?.manifestSha256) return { signed, manifestSha256 };
  if (counter < state.counter) throw new Refused("downgrade", `counter ${counter} after ${state.counter}`);
  if (counter === state.counter && payloadSha256 !== state.payloadSha256) {
    throw new Refused("downgrade", `counter ${counter} was already something else`);
  }
  if (counter > state.counter) await store.setState(Object.assign(state, { counter, payloadSha256 }));
  return { signed, manifestSha256 };
}

export interface Taking {
  keys: string[];
  progress(have: number, all: number): void;
  gpu: boolean;
  /** Digests of manifests that cannot be run or kept; this adds to them. */
  tried: Set<string>;
}

/** Fetch, prove and install what is offered; it runs in a new worker. Null where it is what runs already. */
export async function take(store: Store, offer: Offer, taking: Taking): Promise<Running | null> {
  const { keys, progress, gpu, tried } = taking;
  const state = await store.state(offer.name), trust = await trusted(store, state, offer, keys);
  const digest = trust.manifestSha256;
  if (state.current?.manifestSha256 === digest) return signedNow(store, state, trust);
  if (state.refused.includes(digest)) throw new Refused("failed", `${offer.version} is not tried again`);
  if (tried.has(digest)) throw new Tried("failed", `${offer.version} is not tried again until the page is opened anew`);
  const manifestBytes = await file(offer, MANIFEST, MOST_MANIFEST, () => undefined);
  if ((await sha256(manifestBytes)) !== digest) throw new Refused("checksum", "manifest.json was changed");
  const manifest = parsedFor(manifestBytes, offer, state);
  const fetched = await fetchedFiles(offer, manifest, progress);
  const { running, files, faults } = await proven(manifest, fetched, digest, trust, gpu);
  if (!running) return failed(store, state, digest, faults, tried);
  const next = { ...state, task: manifest.task, current: running.installed, previous: state.current };
  try {
    await store.install(next, digest, { ...files, [MANIFEST]: manifestBytes });
  } catch (error) {
    running.worker.end();
    tried.add(digest); // there is no room for it
    throw error;
  }
  await store.sweep();
  return running;
}

/** What runs is offered again: if by now it is signed, or published anew, that is noted. */
async function signedNow(store: Store, state: ModelState, trust: Trust): Promise<null> {
  if (!trust.signed || !state.current) return null;
  const { counter, keyId, payloadSha256 } = trust.signed, newer = counter > state.counter;
  if (newer || keyId !== state.current.keyId) {
    const current = { ...state.current, counter, keyId };
    await store.setState({ ...state, ...(newer ? { counter, payloadSha256 } : {}), current });
  }
  return null;
}

function parsedFor(bytes: Uint8Array, offer: Offer, state: ModelState): Manifest {
  let manifest: Manifest;
  try {
    manifest = parseManifest(bytes);
  } catch (error) {
    throw new Refused("format", (error as Error).message);
  }
  if (manifest.name !== offer.name || manifest.version !== offer.version) {
    throw new Refused("foreign", `the manifest is of ${manifest.name} ${manifest.version}`);
  }
  if (state.task && manifest.task !== state.task) throw new Refused("foreign", `its task is ${manifest.task}`);
  return manifest;
}

interface Fetched {
  files: Record<string, Uint8Array>;
  /** The rest of the variants, for where the first does not open. */
  variants: Variant[];
  more(variant: Variant): Promise<Uint8Array>;
}

async function fetchedFiles(
  offer: Offer, manifest: Manifest, progress: (have: number, all: number) => void,
): Promise<Fetched> {
  const variants = webVariants(manifest);
  if (!variants.length) throw new Refused("format", "it has no ONNX file that a browser can run");
  const first = [GOLDEN, variants[0].path];
  const all = first.reduce((sum, path) => sum + fileEntry(manifest, path).bytes, 0);
  let have = 0;
  const count: Progress = (received) => progress((have += received), all);
  const files: Record<string, Uint8Array> = {};
  for (const path of first) files[path] = await checkedFile(offer, manifest, path, count);
  const more = async (variant: Variant) =>
    (files[variant.path] ??= await checkedFile(offer, manifest, variant.path, () => undefined));
  return { files, variants, more };
}

async function checkedFile(offer: Offer, manifest: Manifest, path: string, progress: Progress): Promise<Uint8Array> {
  const entry = fileEntry(manifest, path), content = await file(offer, path, entry.bytes, progress).catch((error) => {
    throw /larger than/.test(String(error)) ? new Refused("checksum", `${path} was changed`) : error;
  });
  if (content.length !== entry.bytes || (await sha256(content)) !== entry.sha256) {
    throw new Refused("checksum", `${path} was changed`);
  }
  return content;
}

interface Proven {
  running: Running | null;
  /** Of what runs. */
  files: Record<string, Uint8Array>;
  /** Of each variant that does not, in their order. */
  faults: Error[];
}

/** Open the first variant that opens and keeps to its goldens. @throws Unreachable, TokenNeeded */
async function proven(
  manifest: Manifest, fetched: Fetched, digest: string, trust: Trust, gpu: boolean,
): Promise<Proven> {
  const golden = fetched.files[GOLDEN], { counter, keyId } = trust.signed ?? { counter: 0, keyId: "" };
  const faults: Error[] = [];
  for (const variant of fetched.variants) {
    try {
      const content = await fetched.more(variant), bytes = content.length + golden.length;
      const installed = {
        version: manifest.version, manifestSha256: digest, counter, keyId, variant: variantKey(variant), bytes,
      };
      const running = await twice(() => openProven(manifest, variant, content, golden, installed, gpu));
      return { running, files: { [GOLDEN]: golden, [variant.path]: content }, faults };
    } catch (error) {
      if (error instanceof Unreachable || error instanceof TokenNeeded) throw error;
      faults.push(error as Error); // engines lack operators, and rounding differs: another file may still do
    }
  }
  return { running: null, files: {}, faults };
}

/** None of the variants runs here: for good where all gave wrong answers, else until the page is opened anew. */
async function failed(
  store: Store, state: ModelState, digest: string, faults: Error[], tried: Set<string>,
): Promise<never> {
  const reasons = faults.map((fault) => (fault instanceof Refused ? fault.reason : "engine"));
  if (reasons.every((reason) => reason === "golden")) {
    await store.setState({ ...state, refused: [...state.refused, digest].slice(-MOST_REFUSED) });
  } else if (!reasons.includes("checksum")) tried.add(digest);
  throw faults[0];
}

async function openProven(
  manifest: Manifest, variant: Variant, content: Uint8Array, golden: Uint8Array, installed: Installed, gpu: boolean,
): Promise<Running> {
  const running = await open(manifest, variant, content, installed);
  try {
    const { worker, session } = running, { precision } = variant;
    const proof = await worker.ask("prove", { session, manifest, precision, golden }).catch((error: WorkerError) => {
      throw error.trouble === "memory" || error.trouble === "silent" ? error : new Refused("golden", error.message);
    });
    if (proof.faults.length) throw new Refused("golden", proof.faults.join("; "));
    if (gpu) running.tryGpu = () => onGpu(running, content, golden);
    return running;
  } catch (error) {
    running.worker.end();
    throw error;
  }
}

async function open(
  manifest: Manifest, variant: Variant, bytes: Uint8Array, installed: Installed,
): Promise<Running> {
  const worker = new InferenceWorker();
  try {
    const options = { threads: mostThreads(), backend: "wasm" as const };
    const { session, backend, threads } = await worker.ask("open", { bytes, options });
    return { worker, session, manifest, variant: variantKey(variant), installed, backend, threads, gpuFault: "", tryGpu: null };
  } catch (error) {
    worker.end();
    throw error;
  }
}

/** The same file with WebGPU, where it gives WASM's answers to the golden inputs; else WASM goes on. */
async function onGpu(running: Running, bytes: Uint8Array, golden: Uint8Array): Promise<void> {
  const { worker, session: first, manifest } = running, { precision } = variantOf(manifest, running.variant);
  running.tryGpu = null;
  try {
    if (!(await hasWebGPU())) return;
    const options = { threads: running.threads, backend: "webgpu" as const };
    const { session: second } = await worker.ask("open", { bytes, options });
    const proof = await worker.ask("agree", { first, second, manifest, precision, golden });
    running.gpuFault = proof.faults.join("; ");
    if (!running.gpuFault) Object.assign(running, { session: second, backend: "webgpu" });
    await worker.ask("release", { session: running.gpuFault ? second : first }); // behind what is asked of it already
  } catch (error) {
    running.gpuFault = (error as Error).message;
  }
}

/** Open what is installed, after every byte of it was held against its manifest again. @throws Damaged */
export async function openInstalled(store: Store, state: ModelState, gpu: boolean): Promise<Running> {
  const installed = state.current;
  if (!installed) throw new Damaged("nothing is installed");
  const digest = installed.manifestSha256, manifestBytes = await store.file(digest, MANIFEST);
  if (!manifestBytes || (await sha256(manifestBytes)) !== digest) throw new Damaged("manifest.json was changed");
  const manifest = parseManifest(manifestBytes), variant = variantOf(manifest, installed.variant);
  const [content, golden] = await Promise.all([variant.path, GOLDEN].map(async (path) => {
    const bytes = await store.file(digest, path), entry = fileEntry(manifest, path);
    if (!bytes || bytes.length !== entry.bytes || (await sha256(bytes)) !== entry.sha256) {
      throw new Damaged(`${path} was changed`);
    }
    return bytes;
  }));
  const running = await twice(() => open(manifest, variant, content, installed));
  if (gpu) running.tryGpu = () => onGpu(running, content, golden);
  return running;
}
