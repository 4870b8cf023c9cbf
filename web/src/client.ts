// The page's end of an inference worker: questions become promises, and one that never answers is noticed.
import type { Asked, Kind, Reply, Trouble } from "./protocol";

export class WorkerError extends Error {
  /** `during`: what a silent worker was asked and did not answer, where that is known. */
  constructor(readonly trouble: Trouble, message: string, readonly during: Kind | null = null) {
    super(message);
  }
}

interface Waiting {
  kind: Kind;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** Ticks of the page without a sign of life: while the worker starts, while it fetches and opens, and of one run. */
export interface Patience {
  start: number;
  open: number;
  run: number;
  tickMs: number;
}

export class InferenceWorker {
  /** Seconds. They are counted in ticks and not by the clock: a phone stops pages and workers that are not in front. */
  static patience: Patience = { start: 30, open: 120, run: 60, tickMs: 1000 };
  /** Told of each worker that did not answer and is started again while it loads. */
  static onSilent: (error: WorkerError) => void = () => undefined;

  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private last = 0;
  private started = false;
  private silent = 0;
  private ticking: ReturnType<typeof setInterval> | null = null;
  /** Nothing that is asked of it will be answered. */
  ended = false;

  constructor() {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "inference" });
    this.worker.addEventListener("message", (event: MessageEvent<Reply>) => this.take(event.data));
    this.worker.addEventListener("error", (event) => this.fail(event.message || "the worker did not start"));
    this.worker.addEventListener("messageerror", () => this.fail("a message could not be read"));
  }

  ask<K extends Kind>(kind: K, args: Asked[K]["args"], transfer: Transferable[] = []): Promise<Asked[K]["reply"]> {
    if (this.ended) return Promise.reject(new WorkerError("other", "the worker was ended"));
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      if (!this.waiting.size) this.silent = 0;
      this.waiting.set(id, { kind, resolve: resolve as (value: unknown) => void, reject });
      this.ticking ??= setInterval(() => this.tick(), InferenceWorker.patience.tickMs);
      this.worker.postMessage({ id, kind, args }, transfer);
    });
  }

  /** End it, with its memory; what is still asked fails. */
  end(): void {
    this.finish(new WorkerError("other", "the worker was ended"));
  }

  private take(reply: Reply): void {
    this.started = true;
    this.silent = 0;
    const waiting = this.waiting.get(reply.id); // of a sign of life there is none
    this.waiting.delete(reply.id);
    if (!this.waiting.size) this.rest();
    if (reply.ok) waiting?.resolve(reply.value);
    else waiting?.reject(new WorkerError(reply.trouble, reply.message));
  }

  /** It answers one question after the other: the oldest is what it works on. */
  private tick(): void {
    const [first] = this.waiting.values(), { start, open, run } = InferenceWorker.patience;
    const patience = !this.started ? start : first?.kind === "open" ? open : run;
    if (++this.silent < patience) return;
    this.finish(new WorkerError("silent", `the worker did not answer for ${patience} s (${first.kind})`, first.kind));
  }

  private finish(error: WorkerError): void {
    this.ended = true;
    this.worker.terminate();
    this.reject(error);
  }

  private fail(message: string): void {
    this.reject(new WorkerError("other", message));
  }

  private reject(error: WorkerError): void {
    this.rest();
    const waiting = [...this.waiting.values()];
    this.waiting.clear();
    for (const { reject } of waiting) reject(error);
  }

  private rest(): void {
    if (this.ticking !== null) clearInterval(this.ticking);
    this.ticking = null;
  }
}

/** Do it once more, in a new worker, where one did not answer: a worker or its threads may hang as they start. */
export async function twice<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof WorkerError) || error.trouble !== "silent") throw error;
    InferenceWorker.onSilent(error);
    return work();
  }
}
