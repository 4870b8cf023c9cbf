// Measuring for `pocketvit bench --target phone` and `pocketvit fit --target phone`: opened with `#pair=TOKEN`, the page
// asks the computer for jobs, runs them in the inference worker, and posts raw times and answers back. The protocol is
// that of pocketvit's serve/phone/routes_jobs.py; statistics are made there.
import { InferenceWorker, WorkerError } from "./client";
import { hasWebGPU } from "./device";
import type { Manifest } from "./manifest";
import type { Opened, Tensor, Tensors } from "./protocol";
import type { Answer } from "./tasks";

interface Pixels { sha256: string; height: number; width: number }
interface File { name: string; sha256: string; bytes: number; manifest: Manifest; images: Pixels[] }
interface Job {
  id: string; kind: "run" | "time"; label: string; threads: number; files: File[];
  seconds?: number; least?: number; most?: number; warmup?: number;
}
interface Engine { name: "onnxruntime-web"; version: string; backend: string; threads: number; simd: true }
interface FileTimes { pre: number[]; infer: number[]; post: number[]; at: number[] }
type Trouble = "memory" | "open" | "run" | "download" | "other";

const BEAT_MS = 2000, AGAIN_MS = 1500, POLL_S = 20, MOST_SESSIONS = 4;

const TEXTS = {
  en: {
    title: "Measuring on this phone",
    hint: "Keep this page open and in front, and the phone charging or cool as you want it measured.",
    waiting: "Connected. Waiting for the computer…",
    lost: "The computer cannot be reached. Trying again…",
    done: "All is done. This page can be closed.",
    stopped: "Stopped: ",
    again: "Try again",
    single: "This page is not cross-origin isolated: the model runs on one thread and is slower than in the app.",
    asleep: "The screen may turn off: set the phone so that it stays on.",
    rounds: "rounds",
    loading: "fetching",
  },
  es: {
    title: "Midiendo en este teléfono",
    hint: "Deja esta página abierta y a la vista, y el teléfono cargando o frío, según quieras medirlo.",
    waiting: "Conectado. Esperando al ordenador…",
    lost: "No se llega al ordenador. Intentándolo de nuevo…",
    done: "Todo está hecho. Puedes cerrar esta página.",
    stopped: "Detenido: ",
    again: "Intentar de nuevo",
    single: "Esta página no está aislada (cross-origin): el modelo usa un solo hilo y va más lento que en la aplicación.",
    asleep: "La pantalla puede apagarse: ajusta el teléfono para que siga encendida.",
    rounds: "rondas",
    loading: "descargando",
  },
};
type Texts = (typeof TEXTS)["en"];

/** The token of the address that the computer printed; null where the page is opened as the app. */
export function pairing(hash: string): string | null {
  return new URLSearchParams(hash.replace(/^#/, "")).get("pair") || null;
}

/** An answer of the computer that no trying again will change. */
class Refused extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

class JobFailed extends Error {
  constructor(readonly trouble: Trouble, message: string) {
    super(message);
  }
}

/** The page's end of the protocol. */
class Desk {
  private session = "";
  constructor(private readonly token: string) {}

  async hello(): Promise<void> {
    const nav = navigator as Navigator & { deviceMemory?: number; userAgentData?: { platform?: string } };
    const said = {
      phone: markOfThisBrowser(), user_agent: navigator.userAgent.slice(0, 512),
      platform: (nav.userAgentData?.platform || navigator.platform || "").slice(0, 128),
      cores: navigator.hardwareConcurrency || null, memory_gb: nav.deviceMemory ?? null,
      isolated: globalThis.crossOriginIsolated, webgpu: await hasWebGPU(),
      screen: `${screen.width}x${screen.height}@${devicePixelRatio.toFixed(2)}`,
    };
    const answer = await this.ask("hello", { method: "POST", body: JSON.stringify(said) });
    this.session = ((await answer.json()) as { session: string }).session;
  }

  async next(): Promise<Job | null> {
    const answer = await this.ask(`jobs/next?wait=${POLL_S}`);
    return answer.status === 204 ? null : ((await answer.json()) as Job);
  }

  async file(job: Job, sha256: string, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    const content = new Uint8Array(await (await this.ask(`jobs/${job.id}/files/${sha256}`)).arrayBuffer());
    if (content.length !== bytes) throw new JobFailed("download", `${content.length} of ${bytes} bytes came`);
    if (crypto.subtle) { // only where the page came over TLS or from the machine itself
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
      const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
      if (hex !== sha256) throw new JobFailed("download", "its checksum is not the one that was stated");
    }
    return content;
  }

  async post(job: Job, what: string, body: BodyInit): Promise<void> {
    await this.ask(`jobs/${job.id}/${what}`, { method: "POST", body });
  }

  private async ask(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { Authorization: `Bearer ${this.token}`, "X-Phone-Session": this.session };
    const answer = await fetch(new URL(path, new URL("./", location.href)), { ...init, headers, cache: "no-store" });
    if (answer.ok) return answer;
    const said = (await answer.json().catch(() => null)) as { error?: string } | null;
    throw new Refused(answer.status, said?.error ?? `${answer.status} ${answer.statusText}`);
  }
}

/** Kept over reloads, so that the computer knows the phone again. */
function markOfThisBrowser(): string {
  const fresh = Array.from(crypto.getRandomValues(new Uint8Array(12)), (x) => x.toString(16).padStart(2, "0")).join("");
  try {
    const known = localStorage.getItem("pocketvit-phone") ?? fresh;
    localStorage.setItem("pocketvit-phone", known);
    return known;
  } catch { // storage is switched off
    return fresh;
  }
}

/** The worker with its opened files; another number of threads needs another worker. */
class Bench {
  private worker: InferenceWorker | null = null;
  private threads = 0;
  private readonly opened = new Map<string, Opened>();

  constructor(private readonly desk: Desk, private readonly step: (note: string, done?: number) => void) {}

  async run(job: Job): Promise<void> {
    try {
      if (job.kind === "run") await this.answer(job);
      else await this.time(job);
    } catch (error) {
      if (error instanceof WorkerError || (error instanceof JobFailed && error.trouble === "memory")) this.end();
      throw error;
    }
  }

  end(): void {
    this.worker?.end();
    this.worker = null;
    this.opened.clear();
  }

  private async answer(job: Job): Promise<void> {
    const file = job.files[0], opened = await this.open(job, file), { sha256, height, width } = file.images[0];
    const data = await this.desk.file(job, sha256, height * width * 3);
    const pixels: Tensor = { dtype: "uint8", data, dims: [1, height, width, 3] };
    const { outputs } = await this.inWorker("run", (w) => w.ask("run", { session: opened.session, inputs: { pixels } }));
    await this.desk.post(job, "outputs", framed(engineOf(opened), file, outputs));
  }

  private async time(job: Job): Promise<void> {
    const { seconds = 2, least = 15, most = 2000, warmup = 3 } = job;
    const sessions: Opened[] = [], frames: Frame[][] = [];
    for (const file of job.files) {
      sessions.push(await this.open(job, file, job.files.length));
      frames.push(await Promise.all(file.images.map((each) => this.frame(job, each))));
    }
    const times = job.files.map((): FileTimes => ({ pre: [], infer: [], post: [], at: [] }));
    for (let i = 0; i < warmup; i++) await this.round(job, sessions, frames);
    const began = performance.now();
    for (let done = 0; done < most; done++) {
      if (done >= least && performance.now() - began >= seconds * 1e3) break;
      (await this.round(job, sessions, frames)).forEach((spent, k) => {
        times[k].pre.push(spent.pre);
        times[k].infer.push(spent.run);
        times[k].post.push(spent.post);
        times[k].at.push(performance.now() - began);
      });
      this.step(`${Math.round((performance.now() - began) / 1e3)} / ${seconds} s`, done + 1);
    }
    await this.desk.post(job, "rows", JSON.stringify({ engine: engineOf(sessions[0]), files: times }));
  }

  /** Each file once on each of its images, A1 B1 A2 B2; the means of a file's times. */
  private async round(job: Job, sessions: Opened[], frames: Frame[][]): Promise<Answer["ms"][]> {
    const sums = job.files.map(() => ({ pre: 0, run: 0, post: 0 })), count = frames[0].length;
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < job.files.length; k++) {
        const { manifest, name } = job.files[k], { session } = sessions[k], frame = frames[k][i];
        const ask = { session, manifest, variant: name, frame, strength: null };
        const { ms } = await this.inWorker("run", (w) => w.ask("answer", ask));
        for (const part of ["pre", "run", "post"] as const) sums[k][part] += ms[part] / count;
      }
    }
    return sums;
  }

  private async open(job: Job, file: File, together = 1): Promise<Opened> {
    if (this.worker && this.threads !== job.threads) this.end();
    this.worker ??= new InferenceWorker();
    this.threads = job.threads;
    const known = this.opened.get(file.sha256);
    if (known) return known;
    await this.makeRoom(job, Math.max(MOST_SESSIONS, together));
    this.step("");
    const bytes = await this.desk.file(job, file.sha256, file.bytes);
    const options = { threads: job.threads, backend: "wasm" as const };
    const opened = await this.inWorker("open", (w) => w.ask("open", { bytes, options }, [bytes.buffer]));
    this.opened.set(file.sha256, opened);
    return opened;
  }

  private async makeRoom(job: Job, most: number): Promise<void> {
    const wanted = new Set(job.files.map((file) => file.sha256));
    for (const [sha256, { session }] of this.opened) {
      if (this.opened.size < most) return;
      if (wanted.has(sha256)) continue;
      this.opened.delete(sha256);
      await this.inWorker("other", (w) => w.ask("release", { session }));
    }
  }

  private async frame(job: Job, { sha256, height, width }: Pixels): Promise<Frame> {
    const rgb = await this.desk.file(job, sha256, height * width * 3);
    const rgba = new Uint8ClampedArray(height * width * 4).fill(255);
    for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) rgba.set(rgb.subarray(from, from + 3), to);
    return { rgba, width, height };
  }

  private async inWorker<T>(stage: Trouble, ask: (worker: InferenceWorker) => Promise<T>): Promise<T> {
    try {
      return await ask(this.worker!);
    } catch (error) {
      const trouble = error instanceof WorkerError && error.trouble === "memory" ? "memory" : stage;
      const damaged = error instanceof WorkerError && error.trouble === "damaged";
      this.end();
      throw new JobFailed(damaged ? "open" : trouble, String(error instanceof Error ? error.message : error));
    }
  }
}
type Frame = Answer["frame"];

function engineOf({ version, backend, threads }: Opened): Engine {
  return { name: "onnxruntime-web", version, backend, threads, simd: true };
}

/** Length of the header, the header, and the outputs' values in the manifest's order, little-endian. */
function framed(engine: Engine, { manifest }: File, outputs: Tensors): Blob {
  const parts = manifest.outputs.map(({ name }) => {
    const found = outputs[name];
    if (!(found?.data instanceof Float32Array)) throw new JobFailed("run", `there is no float output ${name}`);
    return { name, dims: found.dims, data: found.data as Float32Array<ArrayBuffer> };
  });
  const header = new TextEncoder().encode(JSON.stringify({ engine, outputs: parts.map((p) => [p.name, p.dims]) }));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, header.length, true);
  return new Blob([length, header, ...parts.map((part) => part.data)]);
}

/** What people see; nothing of it needs a style sheet. */
class View {
  private readonly status = element("p", { role: "status" });
  private readonly detail = element("p");
  private readonly error = element("p", { role: "alert" });
  private readonly bar = element("progress");

  constructor(readonly texts: Texts) {
    const section = element("section", { id: "measuring", "aria-labelledby": "measuring-title" });
    const title = element("h1", { id: "measuring-title" }, texts.title);
    section.append(title, element("p", {}, texts.hint), this.status, this.bar, this.detail, this.error);
    if (!globalThis.crossOriginIsolated) section.append(element("p", { class: "warning" }, texts.single));
    document.title = texts.title;
    const main = element("main");
    main.append(section);
    document.body.replaceChildren(main);
  }

  show(status: string, detail = "", busy = true): void {
    if (this.status.textContent !== status) this.status.textContent = status;
    this.detail.textContent = detail;
    this.bar.hidden = !busy;
  }

  fail(text: string): void {
    this.show("", "", false);
    this.error.textContent = this.texts.stopped + text;
    const again = element("button", { type: "button" }, this.texts.again);
    again.addEventListener("click", () => location.reload());
    this.error.after(again);
  }

  warn(text: string): void {
    this.error.after(element("p", { class: "warning" }, text));
  }
}

function element<K extends keyof HTMLElementTagNameMap>(
  name: K, attributes: Record<string, string> = {}, text = "",
): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** Keep the screen on while the page is in front, where the browser can; again whenever it comes back to the front. */
async function stayAwake(view: View): Promise<void> {
  try {
    await navigator.wakeLock.request("screen");
  } catch {
    if (document.visibilityState === "visible") view.warn(view.texts.asleep);
  }
}

/** Measure until the computer says that all is done, or that this page has no say. */
export async function measure(token: string): Promise<void> {
  const language = navigator.language.startsWith("es") ? "es" : "en";
  document.documentElement.lang = language;
  const view = new View(TEXTS[language]), desk = new Desk(token);
  let note = "", done = 0;
  const bench = new Bench(desk, (what, rounds = 0) => [note, done] = [what, rounds]);
  await stayAwake(view);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && void stayAwake(view));
  let greeted = false;
  for (;;) {
    try {
      if (!greeted) await desk.hello();
      greeted = true;
      view.show(view.texts.waiting, "", false);
      const job = await desk.next();
      [note, done] = ["", 0];
      if (job) await work(job, bench, desk, view, () => ({ note, done }));
    } catch (error) {
      if (error instanceof Refused && error.status === 410) return view.show(view.texts.done, "", false);
      if (error instanceof Refused && error.status < 500) return view.fail(error.message);
      view.show(view.texts.lost);
      await new Promise((go) => setTimeout(go, AGAIN_MS));
    }
  }
}

/** One job, with a sign of life every other second; what fails of it is told and the page goes on. */
async function work(
  job: Job, bench: Bench, desk: Desk, view: View, at: () => { note: string; done: number },
): Promise<void> {
  const rounds = () => (at().done ? `${at().done} ${view.texts.rounds}, ` : "");
  const show = () => view.show(job.label, rounds() + (at().note || view.texts.loading));
  show();
  const beat = setInterval(() => {
    show();
    desk.post(job, "progress", JSON.stringify({ done: at().done, note: at().note })).catch(() => undefined);
  }, BEAT_MS);
  try {
    await bench.run(job);
  } catch (error) {
    if (error instanceof Refused && error.status === 409) return; // the computer has given it up, or given it away
    if (error instanceof Refused && [401, 410].includes(error.status)) throw error;
    const kind = error instanceof JobFailed ? error.trouble : error instanceof TypeError ? "download" : "other";
    const text = String(error instanceof Error ? error.message : error).slice(0, 900);
    await desk.post(job, "error", JSON.stringify({ kind, text }));
  } finally {
    clearInterval(beat);
  }
}
