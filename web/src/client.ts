// The page's end of an inference worker: questions become promises.
import type { Asked, Kind, Reply, Trouble } from "./protocol";

export class WorkerError extends Error {
  constructor(readonly trouble: Trouble, message: string) {
    super(message);
  }
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class InferenceWorker {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private last = 0;

  constructor() {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "inference" });
    this.worker.addEventListener("message", (event: MessageEvent<Reply>) => this.take(event.data));
    this.worker.addEventListener("error", (event) => this.fail(event.message || "the worker did not start"));
    this.worker.addEventListener("messageerror", () => this.fail("a message could not be read"));
  }

  ask<K extends Kind>(kind: K, args: Asked[K]["args"], transfer: Transferable[] = []): Promise<Asked[K]["reply"]> {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.worker.postMessage({ id, kind, args }, transfer);
    });
  }

  /** End it, with its memory; what is still asked fails. */
  end(): void {
    this.worker.terminate();
    this.fail("the worker was ended");
  }

  private take(reply: Reply): void {
    const waiting = this.waiting.get(reply.id);
    this.waiting.delete(reply.id);
    if (reply.ok) waiting?.resolve(reply.value);
    else waiting?.reject(new WorkerError(reply.trouble, reply.message));
  }

  private fail(message: string): void {
    for (const { reject } of this.waiting.values()) reject(new WorkerError("other", message));
    this.waiting.clear();
  }
}
